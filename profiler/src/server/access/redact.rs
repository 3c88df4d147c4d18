//! Arguments of processes without what looks like a secret in them.

/// What stands for a secret.
const REDACTED: &[u8] = b"REDACTED";

/// Words that name a secret, at the end of an option's or a variable's name.
const SECRETS: [&str; 12] = [
    "password",
    "passwd",
    "pass",
    "passphrase",
    "pwd",
    "token",
    "secret",
    "apikey",
    "api-key",
    "access-key",
    "private-key",
    "credentials",
];

/// The arguments without secrets: the value of `--password VALUE`, `--password=VALUE`,
/// `password=VALUE` and the like, and the password in `scheme://user:password@host`.
pub(super) fn redacted(arguments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut is_secret = false;
    let shown = arguments.into_iter().map(|argument| {
        let is_option = argument.starts_with(b"-");
        if std::mem::take(&mut is_secret) && !is_option {
            return REDACTED.to_vec();
        }
        is_secret = is_option && !argument.contains(&b'=') && names_secret(&argument);
        without_password(&without_values(argument))
    });
    shown.collect()
}

/// `name=VALUE`, several of them too, as in a connection string: apart by spaces, `;`, `&` or `,`.
fn without_values(argument: Vec<u8>) -> Vec<u8> {
    if !argument.contains(&b'=') {
        return argument;
    }
    let ends = |byte: &u8| b" ;&,\n\t".contains(byte);
    let mut shown = Vec::with_capacity(argument.len());
    let mut rest = &argument[..];
    while !rest.is_empty() {
        let end = rest.iter().position(ends).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        match part.iter().position(|byte| *byte == b'=') {
            // The whole of an option is its value, separators and all.
            Some(at) if names_secret(&part[..at]) => {
                shown.extend_from_slice(&part[..=at]);
                shown.extend_from_slice(REDACTED);
                if argument.starts_with(b"-") {
                    return shown;
                }
            }
            _ => shown.extend_from_slice(part),
        }
        let separator = after.len().min(1);
        shown.extend_from_slice(&after[..separator]);
        rest = &after[separator..];
    }
    shown
}

/// Whether a name says that what follows is a secret. `?` starts the first name of a query.
fn names_secret(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let name = name.rsplit(['?', '"', '\'']).next().unwrap_or_default();
    let name = name.replace('_', "-");
    SECRETS.iter().any(|secret| name.ends_with(secret))
}

/// `scheme://user:password@host`, wherever it stands.
fn without_password(argument: &[u8]) -> Vec<u8> {
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|it| it == what);
    let mut shown = Vec::with_capacity(argument.len());
    let mut rest = argument;
    while let Some(at) = find(rest, b"://") {
        let (before, after) = rest.split_at(at + 3);
        shown.extend_from_slice(before);
        let end = after
            .iter()
            .position(|byte| b"/?# \n\t\"'".contains(byte))
            .unwrap_or(after.len());
        let authority = &after[..end];
        let host = authority.iter().rposition(|byte| *byte == b'@');
        let colon = authority.iter().position(|byte| *byte == b':');
        match (colon, host) {
            (Some(colon), Some(host)) if colon < host => {
                shown.extend_from_slice(&authority[..=colon]);
                shown.extend_from_slice(REDACTED);
                shown.extend_from_slice(&authority[host..]);
            }
            _ => shown.extend_from_slice(authority),
        }
        rest = &after[end..];
    }
    shown.extend_from_slice(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &str, expected: &str) {
        let arguments = arguments.split('|').map(|it| it.as_bytes().to_vec());
        let shown = redacted(arguments.collect()).join(&b'|');
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }

    #[test]
    fn values_of_options_that_name_a_secret_are_left_out() {
        check("mysql|--password|s3cret|db", "mysql|--password|REDACTED|db");
        check("mysql|--password=a,b c|db", "mysql|--password=REDACTED|db");
        check("x|--api_key=1", "x|--api_key=REDACTED");
        check("x|-token|t|-v", "x|-token|REDACTED|-v");
        check("x|--auth-token|t", "x|--auth-token|REDACTED");
        check("mysql|--password|--host|h", "mysql|--password|--host|h");
    }

    #[test]
    fn values_of_variables_that_name_a_secret_are_left_out() {
        check("env|DB_PASSWORD=x|sh", "env|DB_PASSWORD=REDACTED|sh");
        check(
            "psql|host=db password=x user=me",
            "psql|host=db password=REDACTED user=me",
        );
        check(
            "curl|https://a/b?token=t&x=1",
            "curl|https://a/b?token=REDACTED&x=1",
        );
    }

    #[test]
    fn passwords_in_addresses_are_left_out() {
        check(
            "app|postgres://me:s@cret@db/x|y",
            "app|postgres://me:REDACTED@db/x|y",
        );
        check(
            "app|--url=http://u:p@h http://u@h:80/",
            "app|--url=http://u:REDACTED@h http://u@h:80/",
        );
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for text in [
            "nginx|-c|/etc/nginx.conf",
            "x|--pass-through=1|a=b|://|http://a:80/b@c",
            "x|-p|80|passwords.txt",
            "",
        ] {
            check(text, text);
        }
    }
}
