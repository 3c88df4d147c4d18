//! What the file says, and what it may not say.

use super::*;

const EXAMPLE: &str = include_str!("../../../../contrib/ebpfprof.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("e.toml"))
}

/// What is read of a text that is wrong.
#[track_caller]
fn check_wrong(text: &str, what: &str, why: &str) {
    use crate::error::Explain;
    let error = parse(text).unwrap_err();
    assert!(error.is_misuse());
    assert_eq!(error.to_string(), what, "{text}");
    assert!(error.why().contains(why), "{text}: {}", error.why());
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
}

/// Lines that start with `#key =` hold defaults; those with `# key =` hold what has none.
#[test]
fn the_example_tells_the_defaults() {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(parse(&text).unwrap(), Config::default());
    assert!(text.contains("\nlisten ="), "{text}");
}

#[test]
fn the_example_has_every_key() {
    for (section, head) in [
        ("", ""),
        ("tls", "[tls]\n"),
        ("auth", "[auth]\n"),
        ("allow", "[allow]\n"),
        ("deny", "[deny]\n"),
        ("limits", "[limits]\n"),
    ] {
        let ConfigError::Syntax { what, .. } = parse(&format!("{head}zzz = 1")).unwrap_err() else {
            panic!("an unknown key is a wrong line");
        };
        let (_, keys) = what.split_once("expected one of ").unwrap();
        for key in keys.split(", ").map(|key| key.trim_matches('`')) {
            let shown = [
                format!("\n#{key} = "),
                format!("\n# {key} = "),
                format!("\n[{key}]"),
            ];
            let has = shown.iter().any(|line| EXAMPLE.contains(line.as_str()));
            assert!(has, "{section}: {key}");
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_key() {
    check_wrong(
        "hosts = []\nlistne = []\n",
        "the configuration is wrong: e.toml:2",
        "unknown field `listne`",
    );
    check_wrong(
        "[limits]\nhz = 99\nseconds = \"soon\"\n",
        "the configuration is wrong: e.toml:3",
        "seconds: a length of time is a number of seconds, or has a unit",
    );
    check_wrong(
        "[auth]\nanonymous_loopback = \"yes\"\n",
        "the configuration is wrong: e.toml:2",
        "anonymous_loopback: invalid type: string \"yes\", expected a boolean",
    );
    check_wrong(
        "listen = [\"nowhere\"]\n",
        "the configuration is wrong: e.toml:1",
        "listen: ",
    );
    check_wrong(
        "\n\nhosts = [\n",
        "the configuration is wrong: e.toml:3",
        "hosts: unclosed array",
    );
    check_wrong(
        "socket_mode = \"rw\"\n",
        "the configuration is wrong: e.toml:1",
        "socket_mode: rights are a text in octal",
    );
}

#[test]
fn what_does_not_go_together_is_told() {
    let wrong = |key: &str| format!("the configuration is wrong: e.toml: {key}");
    check_wrong("listen = []", &wrong("listen"), "one address");
    check_wrong(
        "[limits]\ncaptures = 0",
        &wrong("limits.captures"),
        "1 or more",
    );
    check_wrong(
        "[limits]\nheader = \"1KiB\"",
        &wrong("limits.header"),
        "8KiB",
    );
    check_wrong(
        "[tls]\ncertificate = \"c\"",
        &wrong("tls.key"),
        "private key",
    );
    check_wrong(
        "[tls]\nkey = \"k\"",
        &wrong("tls.certificate"),
        "certificate",
    );
    check_wrong(
        "[tls]\nclient_ca = \"c\"",
        &wrong("tls.certificate"),
        "clients",
    );
    check_wrong(
        "[deny]\ncgroups = [\"x\"]",
        &wrong("cgroups"),
        "root of its tree",
    );
    check_wrong(
        "[deny]\ncomms = [\"sixteen-bytes-ab\"]",
        &wrong("comms"),
        "15 bytes",
    );
}

#[test]
fn quantities_are_those_of_the_command_line() {
    let text = "recorder = \"5m\"\nrecorder_hz = \"49Hz\"\nmax_table_memory = \"8MiB\"\naudit = \"/var/log/a\"\n[limits]\nseconds = 90\nrequest_timeout = 0.5\nanswer = \"1GiB\"\n";
    let config = parse(text).unwrap();
    assert_eq!(config.recorder, Some(Duration::from_secs(300)));
    assert_eq!((config.recorder_hz, config.max_table_memory), (49, 8 << 20));
    assert_eq!(config.audit, AuditTo::File("/var/log/a".into()));
    assert_eq!(config.limits.seconds, Duration::from_secs(90));
    assert_eq!(config.limits.request_timeout, Duration::from_millis(500));
    assert_eq!(config.limits.answer, 1 << 30);
    let off = parse("recorder = \"off\"\naudit = \"off\"\n").unwrap();
    assert_eq!((off.recorder, off.audit), (None, AuditTo::Nowhere));
}
