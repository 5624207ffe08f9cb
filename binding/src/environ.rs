//! The environ of a request (PEP 3333, "environ Variables"): straight from the request's bytes to Python objects.
//! Knows: names of CGI and WSGI.   Must not know: how a request came, what the application does.
//! Invariant: every request gets a fresh, plain dict.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, IntoRawFd};

use bjoern_engine::http1::names::{self, Known, NAMES};
use bjoern_engine::http1::target::decode;
use bjoern_engine::proxies::{Forwarded, Origin, Scheme, forwarded::is_claim};
use bjoern_engine::{Body, Request};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::ffi::latin1;
use crate::file_wrapper::FileWrapper;

/// Methods whose strings are made once. Prepared dicts have `GET`.
const METHODS: [&str; 6] = ["POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"];

/// The peer that prepared dicts have: a proxy on the same host.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What is the same for all requests, made once.
pub struct Environs {
    /// One a listener.
    templates: Vec<Template>,
    /// The key of each known field name.
    keys: [Py<PyString>; NAMES.len()],
    methods: [Py<PyString>; METHODS.len()],
    protocols: [Py<PyString>; 2],
    bytes_io: Py<PyAny>,
    open: Py<PyAny>,
    /// Where the application is mounted; empty or `/…`.
    root_path: Vec<u8>,
}

/// What an environ starts as.
struct Template {
    environ: Py<PyDict>,
    /// The peer that stands in it; `None` for a Unix socket.
    peer: Option<IpAddr>,
}

/// The texts of ports that peers had lately: on a connection that is kept, the next request has the same. As many as a
/// power of two.
pub struct Ports(Box<[PortText]>);

type PortText = Option<(u16, Py<PyString>)>;

impl Ports {
    /// Of a thread that serves many connections, or of one that has come because others wait.
    pub fn new(serves_many: bool) -> Ports {
        let places = if serves_many { 256 } else { 8 };
        Ports((0..places).map(|_| None).collect())
    }

    fn text<'py>(&mut self, py: Python<'py>, port: u16) -> PyResult<&Bound<'py, PyString>> {
        let place = usize::from(port) & (self.0.len() - 1);
        let entry = &mut self.0[place];
        let text = match entry.take() {
            Some((known, text)) if known == port => text,
            _ => decimal(py, port.into())?.unbind(),
        };
        Ok(entry.insert((port, text)).1.bind(py))
    }
}

/// A `wsgi.input` that is a file.
pub type OpenInput<'py> = Option<Bound<'py, PyAny>>;

impl Environs {
    /// `addresses` are the listeners' own; `None` for a Unix socket. `errors`, `multithread` and `root_path` become
    /// `wsgi.errors`, `wsgi.multithread` and `SCRIPT_NAME`.
    pub fn new(
        py: Python<'_>,
        addresses: &[Option<SocketAddr>],
        errors: &Bound<'_, PyAny>,
        multithread: bool,
        root_path: &str,
    ) -> PyResult<Environs> {
        let intern = |text: &str| PyString::intern(py, text).unbind();
        let io = py.import("io")?;
        let script_name = latin1(py, root_path.as_bytes())?;
        Ok(Environs {
            templates: addresses
                .iter()
                .map(|address| {
                    let peer = address.map(|_| PROXY);
                    let environ = template(py, *address, peer, errors, multithread, &script_name)?;
                    Ok(Template { environ: environ.unbind(), peer })
                })
                .collect::<PyResult<_>>()?,
            keys: NAMES.map(|name| match name {
                "Content-Type" => intern("CONTENT_TYPE"),
                "Content-Length" => intern("CONTENT_LENGTH"),
                name => intern(&format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_"))),
            }),
            methods: METHODS.map(intern),
            protocols: ["HTTP/1.0", "HTTP/1.1"].map(intern),
            bytes_io: io.getattr("BytesIO")?.unbind(),
            open: io.getattr("open")?.unbind(),
            root_path: root_path.into(),
        })
    }

    /// The environ of `request`, and its input where that is a file, to be closed after the response.
    pub fn environ<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
        ports: &mut Ports,
    ) -> PyResult<(Bound<'py, PyDict>, OpenInput<'py>)> {
        let template = &self.templates[request.listener];
        let environ = template.environ.bind(py).copy()?;
        let method = request.method();
        match METHODS.iter().position(|known| known.as_bytes() == method) {
            _ if method == b"GET" => {}
            Some(index) => environ.set_item(intern!(py, "REQUEST_METHOD"), self.methods[index].bind(py))?,
            None => environ.set_item(intern!(py, "REQUEST_METHOD"), latin1(py, method)?)?,
        }
        let target = latin1(py, request.target())?;
        if request.path_is_escaped() {
            let mut path = Vec::new();
            decode(request.path(), &mut path);
            environ.set_item(intern!(py, "PATH_INFO"), latin1(py, self.path_info(&path))?)?;
        } else if request.path().len() == request.target().len() && self.root_path.is_empty() {
            environ.set_item(intern!(py, "PATH_INFO"), &target)?;
        } else {
            environ.set_item(intern!(py, "PATH_INFO"), latin1(py, self.path_info(request.path()))?)?;
        }
        environ.set_item(intern!(py, "RAW_URI"), &target)?;
        environ.set_item(intern!(py, "REQUEST_URI"), &target)?;
        if !request.query().is_empty() {
            environ.set_item(intern!(py, "QUERY_STRING"), latin1(py, request.query())?)?;
        }
        if request.minor() == 0 {
            environ.set_item(intern!(py, "SERVER_PROTOCOL"), self.protocols[0].bind(py))?;
        }
        let client = request.client();
        if client.ip != template.peer {
            environ.set_item(intern!(py, "REMOTE_ADDR"), ip_text(client.ip))?;
        }
        if client.port != 0 {
            environ.set_item(intern!(py, "REMOTE_PORT"), ports.text(py, client.port)?)?;
        }
        self.set_fields(py, &environ, request)?;
        if let Forwarded::By(origin) = request.forwarded {
            set_origin(py, &environ, origin)?;
        }
        if request.has_body {
            // Of a list of equal lengths one is left; a chunked body is whole by now, so its length is known.
            environ.set_item(intern!(py, "CONTENT_LENGTH"), decimal(py, request.body_len)?)?;
        }
        let input = self.input(py, &request.body)?;
        environ.set_item(intern!(py, "wsgi.input"), &input)?;
        Ok((environ, matches!(request.body, Body::File(_)).then_some(input)))
    }

    /// What of a decoded path is the application's own.
    fn path_info<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        if self.root_path.is_empty() {
            return path;
        }
        match path.strip_prefix(&self.root_path[..]) {
            Some(rest @ ([] | [b'/', ..])) => rest,
            _ => path, // the proxy has taken it away already
        }
    }

    fn set_fields(&self, py: Python<'_>, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> PyResult<()> {
        let mut seen = 0u64;
        let distrusts = matches!(request.forwarded, Forwarded::Untrusted);
        for (known, name, value) in request.fields() {
            match known {
                names::CONTENT_LENGTH => {}
                // Taken off with the coding (RFC 9112, section 7.1.3): an application would decode the body again.
                names::TRANSFER_ENCODING => {}
                names::HOST if request.authority().is_some() => {}
                names::FORWARDED..=names::X_REAL_IP if distrusts => {}
                names::UNKNOWN if distrusts && is_claim(known, name) => {}
                names::UNKNOWN => {
                    let Some(key) = field_key(name) else { continue };
                    let key = latin1(py, &key)?;
                    match environ.get_item(&key)? {
                        Some(before) => environ.set_item(&key, join(py, names::UNKNOWN, &before, value)?)?,
                        None => environ.set_item(&key, latin1(py, value)?)?,
                    }
                }
                _ => {
                    let key = self.keys[known as usize].bind(py);
                    let bit = 1 << known;
                    if seen & bit == 0 {
                        seen |= bit;
                        environ.set_item(key, latin1(py, value)?)?;
                    } else if let Some(before) = environ.get_item(key)? {
                        environ.set_item(key, join(py, known, &before, value)?)?;
                    }
                }
            }
        }
        if let Some(authority) = request.authority() {
            environ.set_item(intern!(py, "HTTP_HOST"), latin1(py, authority)?)?;
        }
        Ok(())
    }

    /// `wsgi.input`: an `io.BytesIO`, or a file where the body was too large for memory; both seekable, at the start.
    fn input<'py>(&self, py: Python<'py>, body: &Body<'_>) -> PyResult<Bound<'py, PyAny>> {
        match body {
            Body::Memory([]) => self.bytes_io.bind(py).call0(),
            // Without memory for a copy there is a MemoryError, not a panic.
            Body::Memory(bytes) if bytes.len() >= LARGE_BODY_BYTES => {
                let copy = PyBytes::new_with(py, bytes.len(), |copy| {
                    copy.copy_from_slice(bytes);
                    Ok(())
                })?;
                self.bytes_io.bind(py).call1((copy,))
            }
            Body::Memory(bytes) => self.bytes_io.bind(py).call1((PyBytes::new(py, bytes),)),
            Body::File(file) => {
                let file = file.try_clone()?;
                let input = self.open.bind(py).call1((file.as_raw_fd(), "rb"))?;
                let _ = file.into_raw_fd(); // the Python object owns it now
                Ok(input)
            }
        }
    }
}

/// Bodies from this length on are of a size that a peer chooses.
const LARGE_BODY_BYTES: usize = 16 * 1024;

/// The dict each environ starts as. What requests set stands there already, so that the copy does not grow, and with
/// the value that most of them have.
fn template<'py>(
    py: Python<'py>,
    address: Option<SocketAddr>,
    peer: Option<IpAddr>,
    errors: &Bound<'py, PyAny>,
    multithread: bool,
    script_name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyDict>> {
    let environ = PyDict::new(py);
    environ.set_item(intern!(py, "REQUEST_METHOD"), PyString::intern(py, "GET"))?;
    for key in ["PATH_INFO", "RAW_URI", "REQUEST_URI"] {
        environ.set_item(PyString::intern(py, key), "")?;
    }
    environ.set_item(intern!(py, "QUERY_STRING"), "")?;
    environ.set_item(intern!(py, "SERVER_PROTOCOL"), "HTTP/1.1")?;
    environ.set_item(intern!(py, "SCRIPT_NAME"), script_name)?;
    environ.set_item(intern!(py, "REMOTE_ADDR"), ip_text(peer))?;
    environ.set_item(intern!(py, "REMOTE_PORT"), "")?;
    // Neither may be empty (PEP 3333); a Unix socket has no better name.
    let (name, port) = match address {
        Some(address) => (server_name(address.ip().to_canonical()), address.port()),
        None => ("localhost".to_owned(), 80),
    };
    environ.set_item(intern!(py, "SERVER_NAME"), name)?;
    environ.set_item(intern!(py, "SERVER_PORT"), port.to_string())?;
    environ.set_item(intern!(py, "SERVER_SOFTWARE"), concat!("bjoern/", env!("CARGO_PKG_VERSION")))?;
    environ.set_item(intern!(py, "wsgi.version"), (1, 0))?;
    environ.set_item(intern!(py, "wsgi.url_scheme"), "http")?;
    environ.set_item(intern!(py, "wsgi.input"), py.None())?;
    environ.set_item(intern!(py, "wsgi.input_terminated"), true)?;
    environ.set_item(intern!(py, "wsgi.errors"), errors)?;
    environ.set_item(intern!(py, "wsgi.multithread"), multithread)?;
    environ.set_item(intern!(py, "wsgi.multiprocess"), true)?;
    environ.set_item(intern!(py, "wsgi.run_once"), false)?;
    environ.set_item(intern!(py, "wsgi.file_wrapper"), py.get_type::<FileWrapper>())?;
    // 21 keys fill a table; one more, for a moment, makes room for the fields in this one and so in its copies.
    environ.set_item(intern!(py, "HTTP_HOST"), "")?;
    environ.del_item(intern!(py, "HTTP_HOST"))?;
    Ok(environ)
}

/// What the client asked the first proxy for, in place of what the last one asks here.
#[cold]
fn set_origin(py: Python<'_>, environ: &Bound<'_, PyDict>, origin: &Origin<'_>) -> PyResult<()> {
    let Origin { scheme, host, port, .. } = *origin;
    if let Some(scheme) = scheme {
        environ.set_item(intern!(py, "wsgi.url_scheme"), scheme.name())?;
    }
    let default_port = scheme.unwrap_or(Scheme::Http).port();
    if let Some(host) = host {
        let (name, _) = split_port(host);
        environ.set_item(intern!(py, "SERVER_NAME"), latin1(py, name)?)?;
        environ.set_item(intern!(py, "HTTP_HOST"), latin1(py, host)?)?;
    }
    if let Some(port) = port {
        environ.set_item(intern!(py, "SERVER_PORT"), decimal(py, port.into())?)?;
    } else if scheme.is_some() || host.is_some() {
        // The client's port is in the URL, or the one that URLs leave out.
        let http_host = environ.get_item(intern!(py, "HTTP_HOST"))?.map(|host| host.extract::<String>()).transpose()?;
        let own_port = http_host.as_ref().and_then(|host| split_port(host.as_bytes()).1);
        match own_port {
            Some(port) => environ.set_item(intern!(py, "SERVER_PORT"), latin1(py, port)?)?,
            None => environ.set_item(intern!(py, "SERVER_PORT"), decimal(py, default_port.into())?)?,
        }
    }
    Ok(())
}

/// An address as `SERVER_NAME` and URLs have it: IPv6 in brackets (RFC 3875, section 4.1.14).
fn server_name(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// The name in a `Host`, brackets of IPv6 included, and the port behind it, where there is one.
fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    match host.iter().rposition(|byte| !byte.is_ascii_digit()) {
        Some(colon) if host[colon] == b':' => {
            (&host[..colon], Some(&host[colon + 1..]).filter(|port| !port.is_empty()))
        }
        _ => (host, None),
    }
}

/// The key of a field that is not in the table; `None` for one that is dropped.
///
/// Names with `_` could be taken for those with `-` (CVE-2015-0219); `Proxy` would become the variable by which CGI
/// programs choose a proxy (CVE-2016-5385).
fn field_key(name: &[u8]) -> Option<Vec<u8>> {
    if name.contains(&b'_') || name.eq_ignore_ascii_case(b"proxy") {
        return None;
    }
    let upper = name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() });
    Some(b"HTTP_".iter().copied().chain(upper).collect())
}

/// A repeated field is one list (RFC 9110, section 5.3); cookies have a separator of their own (RFC 6265, section 4.2.1).
fn join<'py>(py: Python<'py>, known: Known, before: &Bound<'py, PyAny>, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let separator = if known == names::COOKIE { intern!(py, "; ") } else { intern!(py, ", ") };
    before.add(separator)?.add(latin1(py, value)?)
}

fn decimal(py: Python<'_>, number: u64) -> PyResult<Bound<'_, PyString>> {
    latin1(py, itoa::Buffer::new().format(number).as_bytes())
}

/// The text of an address; empty for a Unix socket.
fn ip_text(ip: Option<IpAddr>) -> String {
    ip.map_or(String::new(), |ip| ip.to_string())
}
