//! Why a head is refused, in words for whoever sent it. Nothing of the head itself is repeated: it may hold a key.

use std::fmt;

use crate::limits::{HEAD_BYTES_MAX, HEAD_FIELDS_MAX};

/// What can be wrong with a head, whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// A CR without LF.
    BareCr,
    /// A LF without CR.
    BareLf,
    /// NUL or another control character.
    Control,
    /// A header line that continues the one before (RFC 9112 §5.2).
    ObsFold,
    /// A header line without colon, with an empty or malformed name, or with white space before the colon.
    FieldLine,
    /// More than `HEAD_FIELDS_MAX` fields.
    TooManyFields,
    /// More than `HEAD_BYTES_MAX` bytes.
    TooLarge,
    /// Both Content-Length and Transfer-Encoding.
    TwoFramings,
    /// A Content-Length that is not one decimal number below 2^64. Lists are refused too, though RFC 9110 §8.6 would
    /// allow a list of equal numbers; equal *fields* are accepted.
    Length,
    /// Two fields Content-Length with different numbers.
    LengthsDiffer,
    /// A Transfer-Encoding in which `chunked` is not the last coding, is repeated, or has parameters.
    Encoding,
    /// A Transfer-Encoding with another coding than `chunked`.
    EncodingUnsupported,
    /// Transfer-Encoding in HTTP/1.0, which has none.
    EncodingInHttp10,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareCr => "the head holds a CR without LF: end lines with CRLF",
            Self::BareLf => "the head holds a LF without CR: end lines with CRLF",
            Self::Control => "the head holds a control character: remove or encode it",
            Self::ObsFold => "a header line begins with white space: write each field on one line",
            Self::FieldLine => {
                "a header line is not `name: value`: the name is empty, holds a forbidden character, or has white space \
                 before its colon"
            }
            Self::TooManyFields => return write!(f, "more than {HEAD_FIELDS_MAX} header fields: send fewer"),
            Self::TooLarge => {
                return write!(f, "the head is larger than {HEAD_BYTES_MAX} bytes: send fewer or shorter header fields");
            }
            Self::TwoFramings => "both Content-Length and Transfer-Encoding are present: send only one of them",
            Self::Length => "Content-Length is not one decimal number below 2^64",
            Self::LengthsDiffer => "two Content-Length fields differ: send only one",
            Self::Encoding => "Transfer-Encoding must name `chunked` once, last, and without parameters",
            Self::EncodingUnsupported => "Transfer-Encoding has a coding other than `chunked`: send the body without it",
            Self::EncodingInHttp10 => "Transfer-Encoding does not exist in HTTP/1.0: use HTTP/1.1 or Content-Length",
        })
    }
}

impl std::error::Error for HeadError {}

/// Why a request head is refused. The connection cannot be used on: where the request ends is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Wrong in a way requests and responses share.
    Head(HeadError),
    /// A TLS handshake on a port that speaks plain HTTP.
    Tls,
    /// The first byte cannot begin a request.
    NotHttp,
    /// More than `LEADING_EMPTY_LINES_MAX` empty lines before the request.
    EmptyLines,
    /// Not `METHOD TARGET HTTP/x.y` with single spaces.
    RequestLine,
    /// A target that is neither a path, nor an absolute `http` or `https` URL, nor the `*` of OPTIONS.
    Target,
    /// The request line alone is longer than `HEAD_BYTES_MAX`.
    TargetTooLong,
    /// An HTTP version other than 1.0 and 1.1.
    Version,
    /// No Host field in HTTP/1.1.
    HostMissing,
    /// Several Host fields.
    HostRepeated,
    /// A Host that is not `name`, `name:port`, `[address]` or `[address]:port`.
    HostInvalid,
}

impl RequestError {
    /// The status to answer with.
    pub fn status(&self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::Head(HeadError::TooManyFields | HeadError::TooLarge) => 431,
            Self::Head(HeadError::EncodingUnsupported) => 501,
            Self::Version => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head(error) => return error.fmt(f),
            Self::Tls => {
                "this is a TLS handshake, but the port speaks plain HTTP: use http:// instead of https://"
            }
            Self::NotHttp => "this is not HTTP: the first byte cannot begin a request",
            Self::EmptyLines => "too many empty lines before the request",
            Self::RequestLine => "the request line is not `METHOD TARGET HTTP/1.1` with single spaces",
            Self::Target => "the request target must be a path that begins with `/`, or an absolute http URL",
            Self::TargetTooLong => {
                return write!(f, "the request line is longer than {HEAD_BYTES_MAX} bytes: shorten the URL");
            }
            Self::Version => "only HTTP/1.1 and HTTP/1.0 are spoken here",
            Self::HostMissing => "the Host field is missing, which HTTP/1.1 requires",
            Self::HostRepeated => "several Host fields: send one",
            Self::HostInvalid => "the Host field is not `name` or `name:port`",
        })
    }
}

impl std::error::Error for RequestError {}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

/// Why a response head is refused. The connection cannot be used on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// Wrong in a way requests and responses share.
    Head(HeadError),
    /// A TLS record in answer to plain HTTP.
    Tls,
    /// Does not begin with `HTTP/`.
    NotHttp,
    /// Not `HTTP/x.y STATUS [REASON]` with a status from 100 to 999.
    StatusLine,
    /// An HTTP version other than 1.0 and 1.1.
    Version,
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head(error) => return write!(f, "response: {error}"),
            Self::Tls => "the server answered plain HTTP with TLS: use https:// in the URL",
            Self::NotHttp => "the server did not answer in HTTP: check host and port of the URL",
            Self::StatusLine => "the status line of the response is malformed",
            Self::Version => "the server answered in an HTTP version other than 1.1 and 1.0",
        })
    }
}

impl std::error::Error for ResponseError {}

impl From<HeadError> for ResponseError {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}
