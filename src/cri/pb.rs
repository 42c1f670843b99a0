//! The wire types, client and server of CRI v1, generated from `proto/runtime/v1/api.proto`.
//!
//! Nothing outside `cri` and the tests names these types. Enumerations are plain `i32` fields on
//! the wire side; `convert` refuses numbers that no name belongs to.

// Generated code answers to the generator's lints.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::too_many_lines,
    clippy::let_underscore_must_use
)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

use std::fmt;

pub use generated::*;

/// Says which fields are set and never what is in them: requests are logged with `{:?}`.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, password, auth, server_address, identity_token, registry_token } =
            self;
        let mut shown = f.debug_struct("AuthConfig");
        let mut show = |name, text: &str| {
            shown.field(name, &format_args!("{}", if text.is_empty() { "-" } else { "(set)" }));
        };
        show("username", username);
        show("password", password);
        show("auth", auth);
        show("server_address", server_address);
        show("identity_token", identity_token);
        show("registry_token", registry_token);
        shown.finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn no_credential_prints_with_a_pull_request() {
        let secret = |n: u8| format!("secret-{n}");
        let request = PullImageRequest {
            auth: Some(AuthConfig {
                username: secret(1),
                password: secret(2),
                auth: secret(3),
                server_address: secret(4),
                identity_token: secret(5),
                registry_token: secret(6),
            }),
            ..PullImageRequest::default()
        };
        for text in [format!("{request:?}"), format!("{request:#?}")] {
            assert!(!text.contains("secret"), "{text}");
            assert!(text.contains("password: (set)"), "{text}");
        }
    }

    #[test]
    fn an_environment_value_need_not_be_text() {
        let pair = KeyValue { key: "K".to_owned(), value: vec![0xff, 0x00, 0xfe] };
        let bytes = pair.encode_to_vec();
        assert_eq!(bytes, [0x0a, 1, b'K', 0x12, 3, 0xff, 0x00, 0xfe]);
        assert_eq!(KeyValue::decode(bytes.as_slice()), Ok(pair));
    }

    #[test]
    fn oddly_named_and_numbered_fields_are_where_other_implementations_put_them() {
        // Field numbers out of order or above 15 are the ones a renumbering would get wrong.
        let image = ImageSpec { image_ref: "x".to_owned(), ..ImageSpec::default() };
        assert_eq!(image.encode_to_vec(), [0xa2, 0x01, 1, b'x']); // 20, length-delimited
        let config =
            ContainerConfig { stop_signal: Signal::Sigrtmax.into(), ..ContainerConfig::default() };
        assert_eq!(config.encode_to_vec(), [0x90, 0x01, 65]); // 18, varint
        let psi = PsiStats { full: None, some: Some(PsiData { total: 7, ..PsiData::default() }) };
        assert_eq!(psi.encode_to_vec(), [0x12, 2, 0x08, 7]); // 2 { 1: 7 }
        let namespace = Namespace { options: Some(NamespaceOption::default()) };
        assert_eq!(namespace.encode_to_vec(), [0x12, 0]); // starts at 2
    }
}
