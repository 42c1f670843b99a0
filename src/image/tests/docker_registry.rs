//! A real registry: Debian's docker-registry, filled by skopeo.

use std::process::{Child, Command, Stdio};

use super::*;

/// `user:s3cret`, hashed with bcrypt at its lowest cost.
const HTPASSWD: &str = "user:$2b$04$YfdDQQ8bbetBGPVyVG/uousDadQssdg2LgC8/H549UgZkUXEBydYS\n";

/// The registry; killed when dropped.
struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Guard {
    Open,
    Password,
    SelfSigned,
}

impl Registry {
    async fn start(guard: Guard) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr();
        let host = format!("127.0.0.1:{}", port.expect("address").port());
        let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n",
            path("data")
        );
        let tls = match guard {
            Guard::SelfSigned => {
                self_sign(&path("key.pem"), &path("cert.pem"));
                format!(", tls: {{certificate: {}, key: {}}}", path("cert.pem"), path("key.pem"))
            }
            _ => String::new(),
        };
        config += &format!("http: {{addr: '{host}'{tls}}}\n");
        if guard == Guard::Password {
            fs::write(path("htpasswd"), HTPASSWD).expect("write");
            config += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", path("htpasswd"));
        }
        fs::write(path("config.yml"), config).expect("write");
        let child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run docker-registry");
        let registry = Self { child, host, dir };
        let address = registry.host.clone();
        eventually("the registry listens", || std::net::TcpStream::connect(&address).is_ok()).await;
        registry
    }

    /// Puts an image there, after writing it as an OCI layout.
    fn push(&self, fixture: &Fixture, name: &str, options: &[&str]) {
        let layout = self.dir.path().join(format!("layout-{}", name.replace([':', '/'], "-")));
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("directory");
        let all = fixture.layers.iter().map(|layer| &layer.blob);
        for blob in all.chain([&fixture.config, &fixture.manifest]) {
            fs::write(blobs.join(Digest::of(blob).hex()), blob).expect("write");
        }
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            manifest::OCI_MANIFEST,
            fixture.digest(),
            fixture.manifest.len()
        );
        fs::write(layout.join("index.json"), index).expect("write");
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .expect("run skopeo");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo: {errors}");
    }

    fn site(&self) -> Site {
        let site = Site::new();
        let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", self.host);
        site.write("registries.conf", &text);
        site
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn self_sign(key: &str, certificate: &str) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"])
        .args(["-keyout", key, "-out", certificate])
        .output()
        .expect("run openssl");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}

fn fixture() -> Fixture {
    Fixture::new(vec![Layer::of(&[("a", "x"), ("b", "x")]), Layer::large(200_000)])
}

#[tokio::test]
async fn every_format_is_pulled_from_a_real_registry() {
    let registry = Registry::start(Guard::Open).await;
    let site = registry.site();
    let images = site.open();
    for (name, options) in [
        ("x:oci", &["--format=oci"][..]),
        ("team/x:docker", &["--format=v2s2"]),
        ("x:zstd", &["--format=oci", "--dest-compress-format=zstd"]),
    ] {
        registry.push(&fixture(), name, options);
        let image = pull(&images, &format!("{}/{name}", registry.host)).await;
        let image = image.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(contents(&image).len(), 3, "{name}");
    }
    let absent = pull(&images, &format!("{}/x:absent", registry.host)).await.expect_err("absent");
    assert_eq!(absent.kind(), Kind::NotFound, "{}", chain(&absent));
}

#[tokio::test]
async fn a_password_opens_a_real_registry() {
    let registry = Registry::start(Guard::Password).await;
    registry.push(&fixture(), "x:1", &["--dest-creds=user:s3cret"]);
    let site = registry.site();
    let images = site.open();
    let name = format!("{}/x:1", registry.host);
    let denied = pull(&images, &name).await.expect_err("no password");
    assert_eq!(denied.kind(), Kind::Denied, "{}", chain(&denied));
    let credentials = Credentials::from_auth_field("dXNlcjpzM2NyZXQ=").expect("decodes");
    let request = PullRequest { reference: name.clone(), credentials: Some(credentials) };
    images.pull(request).await.expect("password of the request");
    images.remove(&name).await.expect("remove");
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzM2NyZXQ="}}}}}}"#, registry.host);
    site.write("auth.json", &auth);
    pull(&images, &name).await.expect("password of the file");
}

#[tokio::test]
async fn a_self_signed_certificate_is_accepted_only_where_that_is_configured() {
    let registry = Registry::start(Guard::SelfSigned).await;
    registry.push(&fixture(), "x:1", &[]);
    let name = format!("{}/x:1", registry.host);
    let strict = Site::new();
    let refused = pull(&strict.open(), &name).await.expect_err("not configured");
    let text = chain(&refused);
    assert!(text.starts_with("RegistryUnavailable: ") && text.contains("ertificate"), "{text}");
    let site = registry.site();
    pull(&site.open(), &name).await.expect("configured");
}
