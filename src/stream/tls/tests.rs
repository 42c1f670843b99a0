use std::net::Ipv4Addr;

use super::*;

fn config(dir: &Path) -> config::Stream {
    config::Stream {
        trust: Trust::RootAlone,
        address: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        tls_cert: Some(dir.join("cert.pem")),
        tls_key: Some(dir.join("key.pem")),
        tls_client_ca: None,
    }
}

#[test]
fn without_files_there_is_no_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let none = config::Stream { tls_cert: None, tls_key: None, ..config(dir.path()) };
    assert!(Tls::load(&none).is_ok_and(|tls| tls.is_none()));
}

#[test]
fn what_is_wrong_is_named_with_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let said = || Tls::load(&config).err().map(|error| chain(&error)).unwrap_or_default();
    let cert = dir.path().join("cert.pem").display().to_string();
    assert!(said().starts_with(&format!("read {cert}: ")), "{}", said());
    std::fs::write(&cert, "no certificate").expect("written");
    std::fs::write(dir.path().join("key.pem"), "no key").expect("written");
    assert!(said().starts_with("no PEM in "), "{}", said());
}
