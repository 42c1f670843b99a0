//! Images as requests name them, and the credentials to pull them.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Field, Invalid, Mistakes, text};
use crate::container::spec::ImageRequest;
use crate::cri::pb;
use crate::image::Credentials;

/// Longest reference: a name of 255 bytes, a registry, a tag and a digest are shorter together.
const MAX_REFERENCE: usize = 1_024;
/// Longest credential. Tokens of cloud registries have some 4 KiB.
const MAX_SECRET: usize = 64 * 1024;
/// Standard alphabet; clients disagree about the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The image named by a request's field `field`.
pub fn image_request(field: &str, image: Option<pb::ImageSpec>) -> Result<ImageRequest, Invalid> {
    let mut mistakes = Mistakes::default();
    let image = request(&mut mistakes, &Field::root(field), image);
    mistakes.finish(image)
}

pub(super) fn request(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    image: Option<pb::ImageSpec>,
) -> ImageRequest {
    let Some(image) = image else {
        mistakes.add(field, "is missing");
        return ImageRequest::default();
    };
    let here = field.at("image");
    if image.image.is_empty() {
        mistakes.add(&here, "is missing");
    }
    text::plain(mistakes, &here, &image.image, MAX_REFERENCE);
    let here = field.at("user_specified_image");
    text::plain(mistakes, &here, &image.user_specified_image, MAX_REFERENCE);
    let here = field.at("runtime_handler");
    text::plain(mistakes, &here, &image.runtime_handler, text::MAX_NAME);
    // The kubelet hands on those of the pod.
    let here = field.at("annotations");
    text::annotations(mistakes, &here, &image.annotations, text::POD_ANNOTATIONS);
    ImageRequest {
        reference: image.image,
        user_specified: image.user_specified_image,
        runtime_handler: image.runtime_handler,
        annotations: image.annotations,
    }
}

/// The image as it was requested. `image_ref` is left for who knows what it led to.
pub fn image_into_pb(image: &ImageRequest) -> pb::ImageSpec {
    pb::ImageSpec {
        image: image.reference.clone(),
        annotations: image.annotations.clone(),
        user_specified_image: image.user_specified.clone(),
        runtime_handler: image.runtime_handler.clone(),
        image_ref: String::new(),
    }
}

/// The reference that a ListImages or StreamImages request filters by; none = all images.
pub fn image_filter(filter: Option<pb::ImageFilter>) -> Result<Option<String>, Invalid> {
    let reference = filter.and_then(|filter| filter.image).map(|image| image.image);
    let Some(reference) = reference.filter(|text| !text.is_empty()) else { return Ok(None) };
    let mut mistakes = Mistakes::default();
    let filter = Field::root("filter");
    text::plain(&mut mistakes, &filter.at("image").at("image"), &reference, MAX_REFERENCE);
    mistakes.finish(Some(reference))
}

/// The credentials of a PullImage request; none = none given.
///
/// No error repeats any part of them.
pub fn credentials(auth: Option<pb::AuthConfig>) -> Result<Option<Credentials>, Invalid> {
    let Some(auth) = auth else { return Ok(None) };
    let mut mistakes = Mistakes::default();
    let field = Field::root("auth");
    for (name, secret) in [
        ("username", &auth.username),
        ("password", &auth.password),
        ("auth", &auth.auth),
        ("server_address", &auth.server_address),
        ("identity_token", &auth.identity_token),
        ("registry_token", &auth.registry_token),
    ] {
        line(&mut mistakes, &field.at(name), secret);
    }
    let decoded = decode(&mut mistakes, &field.at("auth"), &auth.auth);
    let mut credentials = Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    };
    if let (true, Some((username, password))) = (credentials.username.is_empty(), decoded) {
        (credentials.username, credentials.password) = (username, password);
    }
    let given = Credentials { server_address: String::new(), ..credentials.clone() };
    let any = given != Credentials::default();
    mistakes.finish(any.then_some(credentials))
}

/// Credentials become parts of HTTP headers, one line each.
fn line(mistakes: &mut Mistakes, field: &Field<'_>, secret: &str) {
    if secret.len() > MAX_SECRET {
        mistakes.add(field, format_args!("is longer than {MAX_SECRET} bytes"));
    } else if secret.chars().any(text::is_control) {
        mistakes.add(field, "has a control character");
    }
}

/// `user:password` in base64, as `~/.docker/config.json` keeps it.
fn decode(mistakes: &mut Mistakes, field: &Field<'_>, text: &str) -> Option<(String, String)> {
    if text.is_empty() || text.len() > MAX_SECRET {
        return None;
    }
    let decoded = BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(decoded) = decoded else {
        mistakes.add(field, "is not text in base64");
        return None;
    };
    // COMPAT: Docker has written trailing NULs.
    let decoded = decoded.trim_end_matches('\0');
    line(mistakes, field, decoded);
    let pair = decoded.split_once(':');
    if pair.is_none() {
        mistakes.add(field, "has no colon between user and password");
    }
    pair.map(|(username, password)| (username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_auth(text: &str) -> Result<Option<Credentials>, Invalid> {
        let auth = pb::AuthConfig { auth: text.to_owned(), ..pb::AuthConfig::default() };
        credentials(Some(auth))
    }

    #[test]
    fn user_and_password_are_found_in_base64() {
        for text in ["dXNlcjpwOnc=", "dXNlcjpwOnc", "dXNlcjpwOncA"] {
            let found = with_auth(text).unwrap().unwrap();
            assert_eq!((found.username.as_str(), found.password.as_str()), ("user", "p:w"));
        }
        let both = pb::AuthConfig {
            username: "other".to_owned(),
            password: "secret".to_owned(),
            auth: "dXNlcjpwOnc=".to_owned(),
            ..pb::AuthConfig::default()
        };
        let found = credentials(Some(both)).unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("other", "secret"));
    }

    #[test]
    fn nothing_given_is_no_credentials() {
        assert_eq!(credentials(None), Ok(None));
        assert_eq!(credentials(Some(pb::AuthConfig::default())), Ok(None));
    }

    #[test]
    fn what_would_break_a_header_or_cannot_be_read_is_refused_without_repeating_it() {
        let password = |text: &str| {
            let password = text.to_owned();
            credentials(Some(pb::AuthConfig { password, ..pb::AuthConfig::default() }))
        };
        // "user:pa\nss", "nocolon", not base64, not UTF-8.
        let bad = [
            with_auth("dXNlcjpwYQpzcw=="),
            with_auth("bm9jb2xvbg=="),
            with_auth("hunter2!"),
            with_auth("/////w=="),
            password("hunter2\r\nX: y"),
            password(&"hunter2".repeat(200_000)),
        ];
        for result in bad {
            let error = result.expect_err("accepted").to_string();
            assert!(error.starts_with("auth.") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn credentials_do_not_print() {
        let found = with_auth("dXNlcjpwOnc=").unwrap().unwrap();
        assert_eq!(format!("{found:?}"), "Credentials { .. }");
    }

    #[test]
    fn an_image_has_a_name_of_one_line() {
        let image = |text: &str| {
            let image = text.to_owned();
            image_request("image", Some(pb::ImageSpec { image, ..pb::ImageSpec::default() }))
        };
        assert_eq!(image("a:1").unwrap().reference, "a:1");
        for bad in ["", "a\nb", &"a".repeat(2000)] {
            let error = image(bad).unwrap_err();
            assert_eq!(error.problems()[0].field, "image.image");
        }
        assert_eq!(image_request("image", None).unwrap_err().to_string(), "image: is missing");
        assert_eq!(image_filter(None), Ok(None));
    }
}
