//! What templates become, and what is kept.

#![allow(clippy::unwrap_used)]

use super::*;

fn ranges(text: &str) -> Vec<Range> {
    parse(text).unwrap()
}

fn rendered(template: &str, of: &str) -> String {
    Template::parse(template).unwrap().render(&ranges(of)).unwrap()
}

#[test]
fn a_range_is_an_address_and_a_length_that_fits_it() {
    let shown = |text: &str| Range::parse(text).map(|range| range.to_string());
    assert_eq!(shown("10.1.2.3/16").as_deref(), Some("10.1.0.0/16"));
    assert_eq!(shown("fd00:1::5/64").as_deref(), Some("fd00:1::/64"));
    assert_eq!(shown("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
    assert_eq!(shown("10.0.0.1/32").as_deref(), Some("10.0.0.1/32"));
    for bad in
        ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "fd00::/129", "10.0.0.0/-1", "::/+1"]
    {
        assert_eq!(shown(bad), None, "{bad}");
    }
}

#[test]
fn the_forms_of_the_field_are_understood() {
    assert_eq!(
        rendered(r#""subnet": "{{.PodCIDR}}""#, "10.1.0.0/16"),
        r#""subnet": "10.1.0.0/16""#
    );
    let lists = r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]
[{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]"#;
    assert_eq!(
        rendered(lists, "10.1.0.0/16,fd00::/64"),
        "[[{\"subnet\": \"10.1.0.0/16\"}], [{\"subnet\": \"fd00::/64\"}]]\n\
         [{\"dst\": \"0.0.0.0/0\"}, {\"dst\": \"::/0\"}]"
    );
    assert_eq!(rendered("{{range .PodCIDRRanges}}<{{.}}>{{end}}", "10.1.0.0/16"), "<10.1.0.0/16>");
    assert_eq!(rendered("{{range $r := .Routes}}{{ $r }}{{end}}", "fd00::/64"), "::/0");
    assert_eq!(rendered("a {{- /* no */ -}} b", "fd00::/64"), "ab");
    assert_eq!(rendered("{{if .Routes}}yes{{else}}no{{end}}", "fd00::/64"), "yes");
    let nested = "{{range $i, $a := .Routes}}{{range $j, $b := .PodCIDRRanges}}{{$a}}-{{$b}} {{end}}{{$i}};{{end}}";
    assert_eq!(rendered(nested, "10.0.0.0/8"), "0.0.0.0/0-10.0.0.0/8 0;");
}

#[test]
fn what_is_not_understood_is_named_with_its_line() {
    let error = |text: &str| {
        let template = Template::parse(text);
        template.and_then(|t| t.render(&ranges("10.0.0.0/8"))).unwrap_err().to_string()
    };
    assert_eq!(error("a\n{{printf \"x\"}}"), "line 2: {{printf \"x\"}} is not understood");
    assert_eq!(error("a\n\n{{.PodCIDR"), "line 3: {{ has no }}");
    assert_eq!(error("{{range .Routes}}\n"), "line 1: range does not match");
    assert_eq!(error("{{if .PodCIDR}}{{else}}{{else}}{{end}}"), "line 1: else does not match");
    assert_eq!(error("\n{{end}}"), "line 2: end does not match");
    assert_eq!(error("{{$x}}"), "$x is not set here");
    assert_eq!(error("{{.}}"), ". is not set here");
    assert_eq!(error("{{.Routes}}"), ".Routes is a list");
    let deep = "{{if .PodCIDR}}".repeat(17);
    assert!(error(&deep).contains("more than 16"));
}

fn network(template: Option<PathBuf>, dir: &Path) -> config::Network {
    config::Network {
        trust: Trust::RootAlone,
        conf_dir: dir.join("net.d"),
        conf_template: template,
        plugin_dirs: Vec::new(),
    }
}

#[test]
fn ranges_are_kept_and_rendered_again_by_the_next_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("template");
    let write = |name: &str| {
        let text = format!(
            r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [
                {{"type": "bridge", "ipam": {{"subnet": "{{{{.PodCIDR}}}}"}}}}]}}"#
        );
        fs::write(&file, text).unwrap();
    };
    write("one");
    let config = network(Some(file.clone()), dir.path());
    let target = config.conf_dir.join(FILE);
    let kept = dir.path().join("kept");
    let first = PodRanges::new(&config, kept.clone());
    first.restore().unwrap();
    assert!(!target.exists(), "nothing is known yet");
    first.set("10.1.0.0/16").unwrap();
    assert!(fs::read_to_string(&target).unwrap().contains(r#""subnet": "10.1.0.0/16""#));

    // What cannot be used changes nothing.
    for bad in ["10.1.0.0/99", "garbage", "10.1.0.0/16,", &"10.0.0.0/8,".repeat(9_999)] {
        assert_eq!(first.set(bad).unwrap_err().kind(), Kind::Invalid);
    }
    first.set("").unwrap();
    assert_eq!(fs::read_to_string(&kept).unwrap(), "10.1.0.0/16");

    write("two");
    PodRanges::new(&config, kept.clone()).restore().unwrap();
    let text = fs::read_to_string(&target).unwrap();
    assert!(text.contains("two") && text.contains("10.1.0.0/16"), "{text}");

    fs::write(&file, "{{.PodCIDR}}").unwrap();
    let refused = first.set("10.2.0.0/16").unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "no CNI configuration comes out");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "10.1.0.0/16", "and nothing is kept of it");
    assert_eq!(fs::read_to_string(&target).unwrap(), text);
}

#[test]
fn without_a_template_ranges_are_only_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = network(None, dir.path());
    let ranges = PodRanges::new(&config, dir.path().join("kept"));
    ranges.set("10.1.0.0/16, fd00::/64").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("kept")).unwrap(), "10.1.0.0/16,fd00::/64");
    assert!(!config.conf_dir.exists());
}
