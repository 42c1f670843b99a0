//! The configuration as text: `crisol config`, `deploy/crisol.toml` and `docs/configuration.md`,
//! all from the one table, so that none of them can say something else.

use super::Config;
use super::table::{self, HANDLER_KEYS, HANDLERS, KEYS, Value};

/// Whether values are settings or examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Active,
    /// Behind a `#`, as systemd ships its files: a default that a later version improves reaches
    /// hosts that never changed it.
    CommentedOut,
}

/// What is in force, with one line of reason per key.
pub fn effective(config: &Config) -> String {
    let handlers = config.runtime.handlers.iter().map(|(name, handler)| {
        let value = |key: &table::HandlerKey| (key.get)(handler);
        (name.clone(), HANDLER_KEYS.iter().map(value).collect())
    });
    let keys = KEYS.iter().map(|key| (key.get)(config)).collect();
    document(Style::Active, keys, handlers.collect())
}

/// The defaults, with one line of reason per key.
pub fn default() -> String {
    document(Style::Active, default_keys(), default_handlers())
}

/// The content of `deploy/crisol.toml`: the defaults as comments.
pub fn example() -> String {
    let head = "# Configuration of crisol. Every key is shown with its default; remove the # to change one.\n\
        # Files in /etc/crisol/crisol.d/*.toml are read after this one, in bytewise order, and win.\n\
        # `crisol config` prints what is in force, `crisol check` says whether this host can do it.\n\n";
    head.to_owned() + &document(Style::CommentedOut, default_keys(), default_handlers())
}

/// The content of `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = MARKDOWN_HEAD.to_owned();
    text.push_str("| key | default | what it is for |\n|---|---|---|\n");
    for key in &KEYS {
        row(&mut text, key.name, &key.default.value(), key.reason);
    }
    for key in &HANDLER_KEYS {
        row(&mut text, &format!("{HANDLERS}.NAME.{}", key.name), &key.default.value(), key.reason);
    }
    text.push_str("\nHandlers that exist without any file:");
    let built_in = table::BUILT_IN.iter().map(|h| format!(" `{}` ({})", h.name, h.path));
    text.push_str(&built_in.collect::<Vec<_>>().join(","));
    text.push_str(".\n");
    text.push_str(TEMPLATE);
    text
}

const TEMPLATE: &str = r#"
## A CNI configuration from a template

Where nothing else installs a network, `network.conf_template` names a template. Whenever the kubelet
tells the node's pod addresses (UpdateRuntimeConfig), and at each start, it becomes
`10-crisol.conflist` in `network.conf_dir`, replaced atomically. The placeholders are those of
containerd's `conf_template`:

| | |
|---|---|
| `{{.PodCIDR}}` | the first range |
| `{{range .PodCIDRRanges}}...{{.}}...{{end}}` | once per range |
| `{{range $i, $r := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$r}}"}]{{end}}` | the same with its number and a name |
| `{{range $i, $r := .Routes}}{{if $i}}, {{end}}{"dst": "{{$r}}"}{{end}}` | `0.0.0.0/0` and `::/0`, as there are ranges of the family |
| `{{if ...}}...{{else}}...{{end}}` | not for number 0, an empty text or an empty list |
| `{{- ... -}}`, `{{/* ... */}}` | white space around it is dropped; a comment |

Anything else is an error, and so is a result that is no CNI network: then the file stays as it was,
and the kubelet gets the reason. `crisol check` reads the template as well.
"#;

const MARKDOWN_HEAD: &str = "# Configuration

crisol reads `/etc/crisol/crisol.toml` (it may be absent) and then `/etc/crisol/crisol.d/*.toml` in
bytewise order of the names. With `--config /a/b.toml` these are `/a/b.toml` (it must exist) and
`/a/b.d/*.toml`. The last file that sets a key wins; an array replaces the earlier one; the tables of
runtime handlers merge key by key.

An unknown key, a wrong type or an impossible value is an error. All errors of all files are printed at
once, as `file:line:column: key: what`, and nothing starts. A change takes effect at the next start;
running containers are not touched by a restart.

`crisol config --default` prints the defaults as TOML, `crisol config` what is in force, and
`crisol check` tells whether this host can do it, and what to do if not.

";

fn row(text: &mut String, name: &str, default: &Value, reason: &str) {
    let default = toml_value(default);
    text.push_str(&format!("| `{name}` | `{default}` | {} |\n", reason.replace('|', "\\|")));
}

fn default_keys() -> Vec<Value> {
    KEYS.iter().map(|key| key.default.value()).collect()
}

fn default_handlers() -> Vec<(String, Vec<Value>)> {
    let value = |handler: &table::BuiltInHandler, key: &table::HandlerKey| match key.name {
        "path" => Value::Text(handler.path.to_owned()),
        _ => key.default.value(),
    };
    let handlers = table::BUILT_IN.iter().map(|handler| {
        (handler.name.to_owned(), HANDLER_KEYS.iter().map(|key| value(handler, key)).collect())
    });
    handlers.collect()
}

/// `keys` in the order of [`KEYS`], each handler's in that of [`HANDLER_KEYS`].
fn document(style: Style, keys: Vec<Value>, handlers: Vec<(String, Vec<Value>)>) -> String {
    let mut text = String::new();
    let mut table = "";
    for (key, value) in KEYS.iter().zip(&keys) {
        let (of, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if of != table {
            table = of;
            text.push_str(&format!("[{table}]\n"));
        }
        entry(&mut text, style, (name, key.reason), value);
    }
    for (handler, values) in &handlers {
        text.push_str(&format!("[{HANDLERS}.{}]\n", toml_key(handler)));
        for (key, value) in HANDLER_KEYS.iter().zip(values) {
            entry(&mut text, style, (key.name, key.reason), value);
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn entry(text: &mut String, style: Style, (name, reason): (&str, &str), value: &Value) {
    let mark = if style == Style::CommentedOut { "#" } else { "" };
    text.push_str(&format!("# {reason}\n{mark}{name} = {}\n\n", toml_value(value)));
}

fn toml_value(value: &Value) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// A handler's name may have a dot, which TOML takes for a separator.
fn toml_key(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { toml_value(&Value::Text(name.to_owned())) }
}
