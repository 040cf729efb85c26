//! Users by their names, without the C library: in a static program, the library ends the process when it loads the
//! host's own name modules (NSS).

use std::{
    fs,
    io::ErrorKind,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The file that lists the users on most hosts.
const PASSWD: &str = "/etc/passwd";

/// The program of the host's C library that queries all of its sources, such as LDAP.
const GETENT: &str = "getent";

/// Returns the number of a user, who is given by name or by number; a number need not have a name.
///
/// # Errors
/// If no user has the name.
pub(super) fn number(name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    // `getent` would take such a text as an option or as two lines, not as a name.
    ensure!(
        !name.starts_with('-') && !name.contains([':', '\n']),
        "no such user"
    );
    let users = fs::read(PASSWD).unwrap_or_default();
    match listed(&String::from_utf8_lossy(&users), name) {
        Some(number) => Ok(number),
        None => from_getent(name),
    }
}

/// Returns the number of the user with this name in a list such as /etc/passwd.
fn listed(users: &str, name: &str) -> Option<u32> {
    let mut users = users.lines().map(fields);
    users.find(|user| user.0 == Some(name))?.1
}

/// Returns the name and the number of a line, `name:password:number:...`.
fn fields(line: &str) -> (Option<&str>, Option<u32>) {
    let mut fields = line.split(':');
    let name = fields.next();
    (name, fields.nth(1).and_then(|number| number.parse().ok()))
}

fn from_getent(name: &str) -> Result<u32> {
    /// Exit status of `getent` if no source has the name.
    const NOT_FOUND: i32 = 2;
    let getent = Command::new(GETENT)
        .args(["passwd", name])
        .stdin(Stdio::null())
        .output();
    let output = match getent {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "no such user in {PASSWD}, and there is no {GETENT} to ask other sources; give the number"
            )
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!(
                "no such user in {PASSWD}, and this process may not run {GETENT} to ask other sources; give the \
                 number"
            )
        }
        output => output.with_context(|| format!("cannot run {GETENT}"))?,
    };
    match output.status.code() {
        Some(0) => {}
        Some(NOT_FOUND) => bail!("no such user"),
        _ => bail!(
            "`{GETENT} passwd` ended with {}; give the number",
            output.status
        ),
    }
    // A source may know the user by another name too, which then stands in the line.
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().next().and_then(|line| fields(line).1);
    found.with_context(|| format!("`{GETENT} passwd` did not print a user; give the number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\n# a remark\n\nbroken:x\nada:x:1815:1815::/:\n";

    #[test]
    fn a_user_is_a_line_of_the_list() {
        assert_eq!(listed(USERS, "root"), Some(0));
        assert_eq!(listed(USERS, "ada"), Some(1815));
        for nobody in ["", "broken", "x", "ada:x", "roo", "# a remark"] {
            assert_eq!(listed(USERS, nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_number_needs_no_user() {
        assert_eq!(number("4000000000").unwrap(), 4_000_000_000);
        assert_eq!(number("root").unwrap(), 0);
    }

    #[test]
    fn no_name_is_an_option_of_another_program() {
        for nobody in ["--help", "-s", "root:x", "root\nada"] {
            assert_eq!(number(nobody).unwrap_err().to_string(), "no such user");
        }
    }
}
