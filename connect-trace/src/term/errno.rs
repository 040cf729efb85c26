//! Names of the errnos that connect() returns.

/// The errnos of connect(2), and their names.
const NAMES: [(i32, &str); 21] = [
    (libc::EACCES, "EACCES"),
    (libc::EADDRINUSE, "EADDRINUSE"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::EALREADY, "EALREADY"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::EINPROGRESS, "EINPROGRESS"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EISCONN, "EISCONN"),
    (libc::ENETDOWN, "ENETDOWN"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EPERM, "EPERM"),
    (libc::EPROTOTYPE, "EPROTOTYPE"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
];

/// Largest number of an errno, `MAX_ERRNO`.
const LARGEST: i32 = 4_095;

/// Returns the name of an errno, as in connect(2), or its number if connect(2) does not have it.
pub(crate) fn name(errno: i32) -> String {
    match NAMES.iter().find(|(number, _)| *number == errno) {
        Some((_, name)) => (*name).to_owned(),
        None if errno == 0 => "other errnos".to_owned(),
        None => format!("errno {errno}"),
    }
}

/// Returns the errno with this name of connect(2), or this number; 0 is success.
pub(crate) fn number(text: &str) -> Option<i32> {
    match NAMES.iter().find(|(_, name)| *name == text) {
        Some((number, _)) => Some(*number),
        None => text
            .parse()
            .ok()
            .filter(|number| (0..=LARGEST).contains(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_read_by_the_name_that_is_printed() {
        for (errno, text) in NAMES {
            assert_eq!((name(errno).as_str(), number(text)), (text, Some(errno)));
        }
        assert_eq!((number("0"), number("4095")), (Some(0), Some(4_095)));
        for wrong in ["", "-1", "4096", "ENOSUCH", "eperm"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
