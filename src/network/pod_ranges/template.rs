//! Templates of CNI configurations: text with the address ranges of pods put in.
//!
//! The placeholders are those of Go's text/template that such templates use in the field, so that
//! an existing one can be taken over as it is:
//!
//! ```text
//! {{.PodCIDR}}                                     the first range
//! {{range .PodCIDRRanges}}…{{.}}…{{end}}           once per range; `.` is the range
//! {{range $i, $r := .PodCIDRRanges}}…{{$r}}…{{end}}   the same, with its number and a name
//! {{range $i, $r := .Routes}}…{{end}}              once per family: 0.0.0.0/0 and ::/0
//! {{if $i}}, {{end}}   {{if .PodCIDR}}…{{else}}…{{end}}   not for number 0, an empty text or list
//! {{- … -}}                                        drops white space before and after
//! {{/* … */}}                                      nothing
//! ```
//!
//! Anything else is an error that names its line, never text that passes through.

use super::Range;

/// Ranges and conditions inside each other.
const MAX_DEPTH: usize = 16;

/// Longest result: nested loops multiply.
const MAX_RESULT: usize = 4 << 20;

/// What is wrong with a template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A placeholder that is none of ours.
    #[error("line {line}: {{{{{action}}}}} is not understood")]
    Unknown {
        /// Counted from 1.
        line: usize,
        /// What is between the braces.
        action: String,
    },
    /// `{{` without `}}`.
    #[error("line {line}: {{{{ has no }}}}")]
    Open {
        /// Counted from 1.
        line: usize,
    },
    /// `range` or `if` without `end`, or the other way round.
    #[error("line {line}: {word} does not match")]
    Unbalanced {
        /// Counted from 1.
        line: usize,
        /// `range`, `if`, `else` or `end`.
        word: &'static str,
    },
    /// Too many ranges and conditions inside each other.
    #[error("line {line}: more than {MAX_DEPTH} range and if inside each other")]
    TooDeep {
        /// Counted from 1.
        line: usize,
    },
    /// A variable that no `range` around it sets.
    #[error("{0} is not set here")]
    Unset(String),
    /// A list where one value is needed.
    #[error("{0} is a list")]
    List(&'static str),
    /// It becomes too long.
    #[error("it becomes longer than {MAX_RESULT} bytes")]
    TooLong,
}

/// A template that has been understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Template(Vec<Node>);

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Print(Value),
    Range { number: Option<String>, name: Option<String>, list: Value, body: Vec<Node> },
    If { value: Value, then: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// `.`
    Dot,
    /// `.PodCIDR`
    First,
    /// `.PodCIDRRanges`
    Ranges,
    /// `.Routes`
    Routes,
    /// `$name`
    Variable(String),
}

impl Value {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "." => Self::Dot,
            ".PodCIDR" => Self::First,
            ".PodCIDRRanges" => Self::Ranges,
            ".Routes" => Self::Routes,
            name => Self::Variable(variable(name)?),
        })
    }
}

/// `$name` as it is.
fn variable(text: &str) -> Option<String> {
    let name = text.strip_prefix('$')?;
    let word = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    word.then(|| text.to_owned())
}

/// One placeholder or the text between two, and the line it begins in.
struct Token<'a> {
    line: usize,
    piece: Piece<'a>,
}

enum Piece<'a> {
    Text(&'a str),
    Action(&'a str),
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, TemplateError> {
    let mut tokens = Vec::new();
    let (mut rest, mut line, mut trim) = (text, 1, false);
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let dash = |text: &str| text.starts_with('-') && text[1..].starts_with(char::is_whitespace);
        let mut shown = if trim { before.trim_start() } else { before };
        if after.is_some_and(dash) {
            shown = shown.trim_end();
        }
        tokens.push(Token { line, piece: Piece::Text(shown) });
        line += before.matches('\n').count();
        let Some(after) = after else { return Ok(tokens) };
        let (action, next) = after.split_once("}}").ok_or(TemplateError::Open { line })?;
        let inner = if dash(after) { &action[1..] } else { action };
        let cut = inner.strip_suffix('-').filter(|inner| inner.ends_with(char::is_whitespace));
        trim = cut.is_some();
        tokens.push(Token { line, piece: Piece::Action(cut.unwrap_or(inner).trim()) });
        line += action.matches('\n').count();
        rest = next;
    }
}

/// A `range` or `if` whose `end` has not come yet.
struct Open {
    line: usize,
    node: Node,
    in_else: bool,
}

impl Open {
    fn push(&mut self, node: Node) {
        match &mut self.node {
            Node::Range { body, .. } => body.push(node),
            Node::If { otherwise, .. } if self.in_else => otherwise.push(node),
            Node::If { then, .. } => then.push(node),
            Node::Text(_) | Node::Print(_) => {}
        }
    }
}

impl Template {
    /// Understands a template.
    ///
    /// # Errors
    /// [`TemplateError`], with the line.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut done = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        for Token { line, piece } in tokens(text)? {
            let unbalanced = |word| TemplateError::Unbalanced { line, word };
            let node = match piece {
                Piece::Text(text) => Node::Text(text.to_owned()),
                Piece::Action("end") => open.pop().ok_or_else(|| unbalanced("end"))?.node,
                Piece::Action("else") => {
                    let top = open.last_mut().filter(|top| !top.in_else);
                    let top = top.filter(|top| matches!(top.node, Node::If { .. }));
                    top.ok_or_else(|| unbalanced("else"))?.in_else = true;
                    continue;
                }
                Piece::Action(action) if action.starts_with("/*") && action.ends_with("*/") => {
                    continue;
                }
                Piece::Action(action) => {
                    let unknown = || TemplateError::Unknown { line, action: action.to_owned() };
                    let node = node(action).ok_or_else(unknown)?;
                    if !matches!(node, Node::Print(_)) {
                        if open.len() == MAX_DEPTH {
                            return Err(TemplateError::TooDeep { line });
                        }
                        open.push(Open { line, node, in_else: false });
                        continue;
                    }
                    node
                }
            };
            match open.last_mut() {
                Some(top) => top.push(node),
                None => done.push(node),
            }
        }
        match open.pop() {
            None => Ok(Self(done)),
            Some(Open { line, node: Node::Range { .. }, .. }) => {
                Err(TemplateError::Unbalanced { line, word: "range" })
            }
            Some(Open { line, .. }) => Err(TemplateError::Unbalanced { line, word: "if" }),
        }
    }

    /// The text for these ranges.
    ///
    /// # Errors
    /// [`TemplateError`] where a placeholder has no value of its kind.
    pub fn render(&self, ranges: &[Range]) -> Result<String, TemplateError> {
        let mut routes: Vec<String> = Vec::new();
        for range in ranges {
            let all = range.everything().to_owned();
            if !routes.contains(&all) {
                routes.push(all);
            }
        }
        let ranges = ranges.iter().map(ToString::to_string).collect();
        let mut rendering =
            Rendering { ranges, routes, variables: Vec::new(), text: String::new() };
        rendering.nodes(&self.0)?;
        Ok(rendering.text)
    }
}

/// What an action that is neither `else` nor `end` begins or prints.
fn node(action: &str) -> Option<Node> {
    if let Some(of) = action.strip_prefix("range ") {
        let (names, list) = match of.split_once(":=") {
            Some((names, list)) => (Some(names), list),
            None => (None, of),
        };
        let list = Value::parse(list.trim())?;
        let names: Vec<String> = match names {
            Some(names) => names.split(',').map(|n| variable(n.trim())).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let (number, name) = match names.as_slice() {
            [] => (None, None),
            [name] => (None, Some(name.clone())),
            [number, name] => (Some(number.clone()), Some(name.clone())),
            _ => return None,
        };
        return Some(Node::Range { number, name, list, body: Vec::new() });
    }
    if let Some(of) = action.strip_prefix("if ") {
        let value = Value::parse(of.trim())?;
        return Some(Node::If { value, then: Vec::new(), otherwise: Vec::new() });
    }
    Value::parse(action).map(Node::Print)
}

struct Rendering {
    ranges: Vec<String>,
    routes: Vec<String>,
    /// Those of the ranges around, the innermost last; `.` is one of them.
    variables: Vec<(String, String)>,
    text: String,
}

impl Rendering {
    fn nodes(&mut self, nodes: &[Node]) -> Result<(), TemplateError> {
        nodes.iter().try_for_each(|node| self.node(node))
    }

    fn node(&mut self, node: &Node) -> Result<(), TemplateError> {
        match node {
            Node::Text(text) => self.text.push_str(text),
            Node::Print(value) => {
                let text = self.one(value)?;
                self.text.push_str(&text);
            }
            Node::Range { number, name, list, body } => {
                for (n, item) in self.list(list)?.into_iter().enumerate() {
                    let outside = self.variables.len();
                    self.variables.extend(number.clone().map(|number| (number, n.to_string())));
                    self.variables.extend(name.clone().map(|name| (name, item.clone())));
                    self.variables.push((".".to_owned(), item));
                    let done = self.nodes(body);
                    self.variables.truncate(outside);
                    done?;
                }
            }
            Node::If { value, then, otherwise } => {
                let holds = match value {
                    Value::Ranges | Value::Routes => !self.list(value)?.is_empty(),
                    one => !matches!(self.one(one)?.as_str(), "" | "0"),
                };
                self.nodes(if holds { then } else { otherwise })?;
            }
        }
        if self.text.len() > MAX_RESULT { Err(TemplateError::TooLong) } else { Ok(()) }
    }

    fn one(&self, value: &Value) -> Result<String, TemplateError> {
        let name = match value {
            Value::First => return Ok(self.ranges.first().cloned().unwrap_or_default()),
            Value::Ranges => return Err(TemplateError::List(".PodCIDRRanges")),
            Value::Routes => return Err(TemplateError::List(".Routes")),
            Value::Dot => ".",
            Value::Variable(name) => name,
        };
        let set = self.variables.iter().rev().find(|(known, _)| known == name);
        set.map(|(_, text)| text.clone()).ok_or_else(|| TemplateError::Unset(name.to_owned()))
    }

    fn list(&self, value: &Value) -> Result<Vec<String>, TemplateError> {
        match value {
            Value::Ranges => Ok(self.ranges.clone()),
            Value::Routes => Ok(self.routes.clone()),
            Value::First => Err(TemplateError::Unset(".PodCIDR as a list".to_owned())),
            Value::Dot => Err(TemplateError::Unset(". as a list".to_owned())),
            Value::Variable(name) => Err(TemplateError::Unset(format!("{name} as a list"))),
        }
    }
}
