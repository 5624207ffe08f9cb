//! Why a request is refused: one table; the enum, the answer on the wire and the counter derive from it.
//! Knows: RFC 9110 section 15, RFC 9112.   Must not know: sockets, time.

macro_rules! rejects {
    ($($name:ident = $label:literal, $status:literal;)*) => {
        /// A fault of the peer, or a limit it ran into.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reject {
            $(#[doc = $label] $name,)*
        }

        impl Reject {
            /// Every refusal, each at its own index.
            pub const ALL: &[Reject] = &[$(Reject::$name),*];

            /// The name in counters and logs.
            pub fn label(self) -> &'static str {
                match self { $(Reject::$name => $label,)* }
            }

            /// The status line's code and reason (RFC 9110, section 15); empty where the connection ends without an answer.
            pub fn status(self) -> &'static str {
                match self { $(Reject::$name => $status,)* }
            }
        }
    };
}

rejects! {
    BadRequestLine = "bad_request_line", "400 Bad Request";
    BadMethod = "bad_method", "400 Bad Request";
    MethodTooLong = "method_too_long", "501 Not Implemented";
    BadTarget = "bad_target", "400 Bad Request";
    FragmentInTarget = "fragment_in_target", "400 Bad Request";
    BadEscape = "bad_escape", "400 Bad Request";
    BadVersion = "bad_version", "400 Bad Request";
    BareLf = "bare_lf", "400 Bad Request";
    BadFieldName = "bad_field_name", "400 Bad Request";
    BadFieldValue = "bad_field_value", "400 Bad Request";
    ObsFold = "obs_fold", "400 Bad Request";
    SpaceBeforeColon = "space_before_colon", "400 Bad Request";
    MissingHost = "missing_host", "400 Bad Request";
    DuplicateHost = "duplicate_host", "400 Bad Request";
    BadHost = "bad_host", "400 Bad Request";
    BadForwarded = "bad_forwarded", "400 Bad Request";
    BadContentLength = "bad_content_length", "400 Bad Request";
    RepeatedContentLength = "repeated_content_length", "400 Bad Request";
    LengthAndTransferEncoding = "length_and_transfer_encoding", "400 Bad Request";
    TransferEncodingIn10 = "transfer_encoding_in_10", "400 Bad Request";
    ChunkedNotFinal = "chunked_not_final", "400 Bad Request";
    BadChunkSize = "bad_chunk_size", "400 Bad Request";
    BadChunkExtension = "bad_chunk_extension", "400 Bad Request";
    BadChunkEnd = "bad_chunk_end", "400 Bad Request";
    BadTrailer = "bad_trailer", "400 Bad Request";
    HeaderTimeout = "header_timeout", "408 Request Timeout";
    BodyTimeout = "body_timeout", "408 Request Timeout";
    BodyTooSlow = "body_too_slow", "408 Request Timeout";
    BodyTooLarge = "body_too_large", "413 Content Too Large";
    TargetTooLong = "target_too_long", "414 URI Too Long";
    ExpectationFailed = "expectation_failed", "417 Expectation Failed";
    Misdirected = "misdirected", "421 Misdirected Request";
    HeadTooLarge = "head_too_large", "431 Request Header Fields Too Large";
    TooManyFields = "too_many_fields", "431 Request Header Fields Too Large";
    TrailerTooLarge = "trailer_too_large", "431 Request Header Fields Too Large";
    ConnectRefused = "connect_refused", "501 Not Implemented";
    UnknownTransferCoding = "unknown_transfer_coding", "501 Not Implemented";
    Overloaded = "overloaded", "503 Service Unavailable";
    StorageUnavailable = "storage_unavailable", "503 Service Unavailable";
    StorageFull = "storage_full", "503 Service Unavailable";
    OutOfMemory = "out_of_memory", "503 Service Unavailable";
    VersionNotSupported = "version_not_supported", "505 HTTP Version Not Supported";
    // Whoever does not speak the PROXY protocol need not speak HTTP.
    BadProxyHeader = "bad_proxy_header", "";
    UntrustedProxy = "untrusted_proxy", "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_variant_at_its_own_index() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index, "{}", reject.label());
        }
    }
}
