//! Encryption, and names that certificates prove. The other side is curl's and openssl's.

use std::{fs, path::Path, process::Command};

use ebpfprof::server::config::Config;

use crate::{client::connect, service::Service, words::secret};

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

/// A certificate that somebody signed.
fn signed(folder: &Path, name: &str, subject: &str, issuer: &str) {
    openssl(
        folder,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj {subject}"
        ),
    );
    fs::write(
        folder.join(format!("{name}.ext")),
        format!("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1,DNS:{name}.example\n"),
    )
    .unwrap();
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days 2 -out {name}.pem -extfile {name}.ext"
        ),
    );
}

fn authority(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"
        ),
    );
}

fn encrypted(config: &mut Config, folder: &Path) {
    authority(folder, "ca");
    authority(folder, "stranger");
    signed(folder, "server", "/CN=localhost", "ca");
    signed(folder, "scraper", "/O=Example/CN=scraper-1", "ca");
    signed(folder, "nameless", "/O=Example", "ca");
    signed(folder, "forged", "/CN=scraper-1", "stranger");
    config.tls.certificate = Some(folder.join("server.pem"));
    config.tls.key = Some(folder.join("server.key"));
    config.tls.client_ca = Some(folder.join("ca.pem"));
    config.auth.anonymous_loopback = false;
    config.auth.token_file = Some(secret(folder, "tokens", "alloy:t0ken\n"));
    // Anybody could reach this one.
    config.listen = vec!["0.0.0.0:0".parse().unwrap()];
}

/// What curl gets with these options: the status and the body. Status 0 is none.
fn curl(service: &Service, options: &[&str]) -> (String, String) {
    let port = service.address().port();
    let output = Command::new("curl")
        .args(["-s", "-w", "\n%{http_code}", "--max-time", "60", "--cacert"])
        .arg(service.file("ca.pem"))
        .args(options)
        .arg(format!("https://localhost:{port}/debug/pprof/profile"))
        .current_dir(service.file(""))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.trim_end().to_owned())
}

#[test]
fn a_certificate_proves_its_name_and_a_token_does_without_one() {
    let service = Service::start(encrypted);
    let check = |options: &[&str], status: &str, body: &str| {
        let found = curl(&service, options);
        assert_eq!(found, (status.to_owned(), body.to_owned()), "{options:?}");
    };
    let by = |name: &str| format!("--cert {name}.pem --key {name}.key");
    let words = by("scraper");
    check(
        &words.split(' ').collect::<Vec<_>>(),
        "200",
        "for scraper-1",
    );
    let words = by("nameless");
    check(
        &words.split(' ').collect::<Vec<_>>(),
        "200",
        "for localhost",
    );
    check(&["-H", "Authorization: Bearer t0ken"], "200", "for alloy");
    check(&["-u", "alloy:t0ken"], "200", "for alloy");
    check(&[], "401", "a password or a token is needed");
    check(&["-u", "alloy:other"], "401", "wrong password or token");
    // Who signed it is unknown: the connection comes to nothing.
    let words = by("forged");
    check(&words.split(' ').collect::<Vec<_>>(), "000", "");
    let words = by("scraper") + " --tls-max 1.2";
    check(
        &words.split(' ').collect::<Vec<_>>(),
        "200",
        "for scraper-1",
    );
}

#[test]
fn words_without_encryption_get_no_answer_where_it_is_on() {
    let service = Service::start(|config, folder| {
        encrypted(config, folder);
        config.limits.request_timeout = std::time::Duration::from_millis(300);
    });
    let address = format!("127.0.0.1:{}", service.address().port())
        .parse()
        .unwrap();
    let answer = crate::client::get(address, "/debug/pprof/profile", "");
    assert!(!answer.head.contains("http/1.1"), "{}", answer.head);
    // Whoever says nothing at all is cut off.
    let mut silent = connect(address);
    assert_eq!(crate::client::read(&mut silent).status, 0);
    assert_eq!(curl(&service, &["-u", "alloy:t0ken"]).0, "200");
}
