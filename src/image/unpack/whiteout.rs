//! Names that delete: what a layer's archive says about the layers below it.
//!
//! OCI image spec, `layer.md` "Whiteouts": `.wh.NAME` hides NAME, `.wh..wh..opq` hides everything
//! in its directory. Other names that begin with `.wh..wh.` are AUFS's own and mean nothing here.

use super::UnpackError;

const PREFIX: &[u8] = b".wh.";

/// What a name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// Itself.
    Plain,
    /// Nothing.
    Ignored,
    /// Everything of the layers below in this directory is hidden.
    Opaque,
    /// This name is hidden.
    Hides(&'a [u8]),
}

/// The meaning of an entry by its components.
pub(super) fn meaning<'a>(components: &[&'a [u8]]) -> Result<Meaning<'a>, UnpackError> {
    let Some((name, parents)) = components.split_last() else { return Ok(Meaning::Plain) };
    for parent in parents {
        if parent.starts_with(b".wh..wh.") {
            return Ok(Meaning::Ignored);
        }
        if parent.starts_with(PREFIX) {
            return Err(UnpackError::entry(&components.join(&b'/'), "is below a whiteout"));
        }
    }
    let Some(hidden) = name.strip_prefix(PREFIX) else { return Ok(Meaning::Plain) };
    match hidden {
        b".wh..opq" => Ok(Meaning::Opaque),
        _ if hidden.starts_with(b".wh.") => Ok(Meaning::Ignored),
        b"" | b"." | b".." => {
            Err(UnpackError::entry(&components.join(&b'/'), "is a whiteout of nothing"))
        }
        _ => Ok(Meaning::Hides(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<String> {
        let components: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
        meaning(&components).ok().map(|meaning| match meaning {
            Meaning::Hides(name) => format!("hides {}", String::from_utf8_lossy(name)),
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn each_name_has_one_meaning() {
        for (path, expected) in [
            ("a/b", Some("Plain")),
            ("a/.wh.b", Some("hides b")),
            ("a/.wh..b", Some("hides .b")),
            (".wh..wh..opq", Some("Opaque")),
            (".wh..wh.plnk", Some("Ignored")),
            (".wh..wh.plnk/1.2", Some("Ignored")),
            (".wh.", None),
            (".wh..", None),
            (".wh...", None),
            (".wh.a/b", None),
            ("a.wh.b", Some("Plain")),
        ] {
            assert_eq!(of(path).as_deref(), expected, "{path}");
        }
    }
}
