//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110, section 11.6.1).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Challenges looked at; a registry has one or two.
const MAX_CHALLENGES: usize = 16;

/// Longest value looked at.
const MAX_VALUE: usize = 8 * 1024;

/// One way to authenticate that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What the token has to allow.
        scope: Option<String>,
    },
}

/// All challenges that are understood, in order.
pub(super) fn parse_all(headers: &HeaderMap) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        // Not text, or absurdly long: as good as no challenge.
        if let Some(text) = value.to_str().ok().filter(|text| text.len() <= MAX_VALUE) {
            challenges.extend(parse(text));
        }
    }
    challenges.truncate(MAX_CHALLENGES);
    challenges
}

/// The challenges of one header value. What is malformed ends the list.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else { break };
        let after_space = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after_space.strip_prefix('=') {
            // `name=value` belongs to the scheme before it.
            let Some((value, after)) = parameter_value(value.trim_start()) else { break };
            let Some((_, parameters)) = found.last_mut() else { break };
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            found.push((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, parameters)).collect()
}

fn challenge(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    let find = |name| parameters.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            let (service, scope) = (find("service"), find("scope"));
            find("realm").map(|realm| Challenge::Bearer { realm, service, scope })
        }
        _ => None,
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    let end = text.find(|c| !part(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn challenges_as_registries_write_them() {
        assert_eq!(
            parse(
                r#"Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push""#
            ),
            [bearer("https://auth.example/token", Some("r"), Some("repository:a/b:pull,push"))]
        );
        assert_eq!(parse(r#"Basic realm="Registry Realm""#), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Negotiate, bearer realm="https://a/t" , Basic realm="x""#),
            [bearer("https://a/t", None, None), Challenge::Basic]
        );
        assert_eq!(parse(r#"Bearer realm="a\"b""#), [bearer("a\"b", None, None)]);
    }

    #[test]
    fn malformed_challenges_are_none() {
        for bad in ["", ",,,", "Bearer", "Bearer realm=", r#"Bearer realm="open"#, "=x", "\u{e9}"] {
            assert!(parse(bad).is_empty(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_a_panic(text in "\\PC{0,200}") {
            parse(&text);
        }
    }
}
