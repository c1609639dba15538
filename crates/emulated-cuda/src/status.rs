//! Result codes, by the driver's names and numbers, and failures with their diagnosis.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A result as the driver's functions return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
#[must_use]
pub struct CUresult(pub u32);

macro_rules! results {
    ($($name:ident = $code:literal, $words:literal;)*) => {
        impl CUresult {
            $(#[doc = $words] pub const $name: Self = Self($code);)*
            /// All codes that this driver returns, with their names and the driver's words.
            pub const ALL: &'static [(Self, &'static CStr, &'static str)] = &[
                $((Self($code), c_str(concat!("CUDA_", stringify!($name), "\0")), $words),)*
            ];
        }
    };
}

const fn c_str(text: &str) -> &CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("a name ends with its only NUL"),
    }
}

results! {
    SUCCESS = 0, "no error";
    ERROR_INVALID_VALUE = 1, "invalid argument";
    ERROR_OUT_OF_MEMORY = 2, "out of memory";
    ERROR_NOT_INITIALIZED = 3, "initialization error";
    ERROR_DEINITIALIZED = 4, "driver shutting down";
    ERROR_DEVICE_UNAVAILABLE = 46, "CUDA-capable device(s) is/are busy or unavailable";
    ERROR_NO_DEVICE = 100, "no CUDA-capable device is detected";
    ERROR_INVALID_DEVICE = 101, "invalid device ordinal";
    ERROR_INVALID_IMAGE = 200, "device kernel image is invalid";
    ERROR_INVALID_CONTEXT = 201, "invalid device context";
    ERROR_NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    ERROR_ECC_UNCORRECTABLE = 214, "uncorrectable ECC error encountered";
    ERROR_UNSUPPORTED_LIMIT = 215, "limit is not supported on this architecture";
    ERROR_INVALID_PTX = 218, "a PTX JIT compilation failed";
    ERROR_UNSUPPORTED_PTX_VERSION = 222, "the provided PTX was compiled with an unsupported toolchain.";
    ERROR_FILE_NOT_FOUND = 301, "file not found";
    ERROR_INVALID_HANDLE = 400, "invalid resource handle";
    ERROR_ILLEGAL_STATE = 401, "the operation cannot be performed in the present state";
    ERROR_NOT_FOUND = 500, "named symbol not found";
    ERROR_NOT_READY = 600, "device not ready";
    ERROR_ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    ERROR_LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    ERROR_LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    ERROR_PRIMARY_CONTEXT_ACTIVE = 708, "cannot set while device is active in this process";
    ERROR_CONTEXT_IS_DESTROYED = 709, "context is destroyed";
    ERROR_ASSERT = 710, "device-side assert triggered";
    ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712, "part or all of the requested memory range is already mapped";
    ERROR_HOST_MEMORY_NOT_REGISTERED = 713, "pointer does not correspond to a registered memory region";
    ERROR_ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
    ERROR_MISALIGNED_ADDRESS = 716, "misaligned address";
    ERROR_LAUNCH_FAILED = 719, "unspecified launch failure";
    ERROR_COOPERATIVE_LAUNCH_TOO_LARGE = 720, "too many blocks in cooperative launch";
    ERROR_NOT_PERMITTED = 800, "operation not permitted";
    ERROR_NOT_SUPPORTED = 801, "operation not supported";
    ERROR_STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    ERROR_STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
    ERROR_STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
    ERROR_STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    ERROR_STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    ERROR_STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    ERROR_STREAM_CAPTURE_IMPLICIT = 906, "operation would make the legacy stream depend on a capturing blocking stream";
    ERROR_CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream";
    ERROR_STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
    ERROR_UNKNOWN = 999, "unknown error";
}

impl CUresult {
    fn entry(self) -> Option<(&'static CStr, &'static str)> {
        Self::ALL.iter().find(|e| e.0 == self).map(|e| (e.1, e.2))
    }

    /// The name, such as `CUDA_ERROR_INVALID_VALUE`; `None` for codes that this driver never returns.
    pub fn name(self) -> Option<&'static CStr> {
        self.entry().map(|e| e.0)
    }

    /// The code by name, with or without `CUDA_ERROR_`, or by number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(code) = text.parse() {
            return Self(code).entry().map(|_| Self(code));
        }
        let known = |e: &&(Self, &CStr, &str)| {
            let name = e.1.to_str().unwrap_or_default();
            name == text || name.strip_prefix("CUDA_ERROR_") == Some(text)
        };
        Self::ALL.iter().find(known).map(|e| e.0)
    }

    /// Whether a real driver answers every later call in the context with this code.
    pub(crate) fn is_sticky(self) -> bool {
        matches!(
            self,
            Self::ERROR_ILLEGAL_ADDRESS
                | Self::ERROR_LAUNCH_TIMEOUT
                | Self::ERROR_ASSERT
                | Self::ERROR_ILLEGAL_INSTRUCTION
                | Self::ERROR_MISALIGNED_ADDRESS
                | Self::ERROR_LAUNCH_FAILED
                | Self::ERROR_ECC_UNCORRECTABLE
        )
    }
}

/// A code and, where more can be said than the code does, what happened.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub code: CUresult,
    pub detail: Option<String>,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: CUresult, detail: impl Into<String>) -> Self {
        Self { code, detail: Some(detail.into()) }
    }
}

impl From<CUresult> for Failure {
    fn from(code: CUresult) -> Self {
        Self { code, detail: None }
    }
}

/// The latest words for each code, handed out by `cuGetErrorString`.
///
/// Callers keep the pointers as long as they like, so the texts are never freed; equal texts share one.
#[derive(Default)]
struct Words {
    latest: HashMap<u32, &'static CStr>,
    texts: std::collections::HashSet<&'static CStr>,
    bytes: usize,
}

/// Texts kept beyond this are no longer made: the code's plain words are given instead.
const MOST_BYTES: usize = 4 << 20;

static WORDS: Mutex<Option<Words>> = Mutex::new(None);

fn words() -> MutexGuard<'static, Option<Words>> {
    WORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what is to be said about `failure`'s code from now on.
pub(crate) fn remember(failure: &Failure) {
    let mut guard = words();
    let words = guard.get_or_insert_default();
    let plain = failure.code.entry().map_or("unrecognized error code", |e| e.1);
    let text = match &failure.detail {
        Some(detail) if words.bytes + detail.len() < MOST_BYTES => {
            format!("{plain}: {}", detail.replace('\0', "?"))
        }
        _ => plain.to_string(),
    };
    let text = CString::new(text).unwrap_or_default();
    let kept = match words.texts.get(text.as_c_str()) {
        Some(kept) => *kept,
        None => {
            words.bytes += text.as_bytes().len();
            let kept: &'static CStr = Box::leak(text.into_boxed_c_str());
            words.texts.insert(kept);
            kept
        }
    };
    words.latest.insert(failure.code.0, kept);
}

/// The words for a code: the latest diagnosis behind the driver's own words, or those alone. `None` for unknown codes.
pub(crate) fn words_of(code: CUresult) -> Option<&'static CStr> {
    code.entry()?;
    if let Some(text) = words().as_ref().and_then(|w| w.latest.get(&code.0)) {
        return Some(text);
    }
    remember(&code.into());
    words().as_ref().and_then(|w| w.latest.get(&code.0)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_by_name_and_number() {
        assert_eq!(CUresult::parse("700"), Some(CUresult::ERROR_ILLEGAL_ADDRESS));
        assert_eq!(CUresult::parse("OUT_OF_MEMORY"), Some(CUresult::ERROR_OUT_OF_MEMORY));
        assert_eq!(CUresult::parse("CUDA_ERROR_UNKNOWN"), Some(CUresult::ERROR_UNKNOWN));
        assert_eq!(CUresult::parse("12345"), None);
        assert_eq!(CUresult::parse("NONSENSE"), None);
    }

    #[test]
    fn words_carry_the_latest_diagnosis() {
        let code = CUresult::ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
        let plain = words_of(code).unwrap();
        assert_eq!(plain.to_str().unwrap(), "too many blocks in cooperative launch");
        remember(&Failure::new(code, "9 of 8"));
        assert_eq!(
            words_of(code).unwrap().to_str().unwrap(),
            "too many blocks in cooperative launch: 9 of 8"
        );
        assert_eq!(plain.to_str().unwrap(), "too many blocks in cooperative launch");
        assert!(words_of(CUresult(77777)).is_none());
    }
}
