//! Why a request is refused: one enum; the answer on the wire and the counter derive from it.
//! Knows: RFC 9110 section 15, RFC 9112.   Must not know: sockets, time.

/// A fault of the peer, or a limit it ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the field's; `label` spells each out
#[repr(u8)]
pub enum Reject {
    BadRequestLine,
    BadMethod,
    MethodTooLong,
    BadTarget,
    BadEscape,
    BadVersion,
    BareLf,
    BadFieldName,
    BadFieldValue,
    ObsFold,
    SpaceBeforeColon,
    MissingHost,
    DuplicateHost,
    BadHost,
    BadContentLength,
    RepeatedContentLength,
    LengthAndTransferEncoding,
    TransferEncodingIn10,
    ChunkedNotFinal,
    BadChunkSize,
    BadChunkExtension,
    BadChunkEnd,
    BadTrailer,
    HeaderTimeout,
    BodyTimeout,
    BodyTooLarge,
    TargetTooLong,
    ExpectationFailed,
    HeadTooLarge,
    TooManyFields,
    TrailerTooLarge,
    ConnectRefused,
    UnknownTransferCoding,
    StorageUnavailable,
    VersionNotSupported,
}

use Reject::*;

impl Reject {
    /// Every refusal, in the order of the counters.
    pub const ALL: [Reject; 35] = [
        BadRequestLine,
        BadMethod,
        MethodTooLong,
        BadTarget,
        BadEscape,
        BadVersion,
        BareLf,
        BadFieldName,
        BadFieldValue,
        ObsFold,
        SpaceBeforeColon,
        MissingHost,
        DuplicateHost,
        BadHost,
        BadContentLength,
        RepeatedContentLength,
        LengthAndTransferEncoding,
        TransferEncodingIn10,
        ChunkedNotFinal,
        BadChunkSize,
        BadChunkExtension,
        BadChunkEnd,
        BadTrailer,
        HeaderTimeout,
        BodyTimeout,
        BodyTooLarge,
        TargetTooLong,
        ExpectationFailed,
        HeadTooLarge,
        TooManyFields,
        TrailerTooLarge,
        ConnectRefused,
        UnknownTransferCoding,
        StorageUnavailable,
        VersionNotSupported,
    ];

    /// The status line's code and reason (RFC 9110, section 15).
    pub fn status(self) -> &'static str {
        match self {
            HeaderTimeout | BodyTimeout => "408 Request Timeout",
            BodyTooLarge => "413 Content Too Large",
            TargetTooLong => "414 URI Too Long",
            ExpectationFailed => "417 Expectation Failed",
            HeadTooLarge | TooManyFields | TrailerTooLarge => "431 Request Header Fields Too Large",
            ConnectRefused | MethodTooLong | UnknownTransferCoding => "501 Not Implemented",
            StorageUnavailable => "503 Service Unavailable",
            VersionNotSupported => "505 HTTP Version Not Supported",
            _ => "400 Bad Request",
        }
    }

    /// The name in counters and logs.
    pub fn label(self) -> &'static str {
        match self {
            BadRequestLine => "bad_request_line",
            BadMethod => "bad_method",
            MethodTooLong => "method_too_long",
            BadTarget => "bad_target",
            BadEscape => "bad_escape",
            BadVersion => "bad_version",
            BareLf => "bare_lf",
            BadFieldName => "bad_field_name",
            BadFieldValue => "bad_field_value",
            ObsFold => "obs_fold",
            SpaceBeforeColon => "space_before_colon",
            MissingHost => "missing_host",
            DuplicateHost => "duplicate_host",
            BadHost => "bad_host",
            BadContentLength => "bad_content_length",
            RepeatedContentLength => "repeated_content_length",
            LengthAndTransferEncoding => "length_and_transfer_encoding",
            TransferEncodingIn10 => "transfer_encoding_in_10",
            ChunkedNotFinal => "chunked_not_final",
            BadChunkSize => "bad_chunk_size",
            BadChunkExtension => "bad_chunk_extension",
            BadChunkEnd => "bad_chunk_end",
            BadTrailer => "bad_trailer",
            HeaderTimeout => "header_timeout",
            BodyTimeout => "body_timeout",
            BodyTooLarge => "body_too_large",
            TargetTooLong => "target_too_long",
            ExpectationFailed => "expectation_failed",
            HeadTooLarge => "head_too_large",
            TooManyFields => "too_many_fields",
            TrailerTooLarge => "trailer_too_large",
            ConnectRefused => "connect_refused",
            UnknownTransferCoding => "unknown_transfer_coding",
            StorageUnavailable => "storage_unavailable",
            VersionNotSupported => "version_not_supported",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_variant_at_its_own_index() {
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reject as usize, index, "{}", reject.label());
        }
        assert_eq!(VersionNotSupported as usize + 1, Reject::ALL.len());
    }
}
