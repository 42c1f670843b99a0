//! cgroup limits.

use super::*;

fn resources(change: impl FnOnce(&mut Resources)) -> Fixture {
    Fixture::with(|f| change(&mut f.spec.resources))
}

fn built(change: impl FnOnce(&mut Resources)) -> Value {
    let mut value = resources(change).json()["linux"]["resources"].clone();
    value.as_object_mut().unwrap().remove("devices");
    value
}

#[test]
fn limits_are_passed_on_and_zero_means_unasked() {
    assert_eq!(built(|_| {}), json!({}));
    let all = built(|r| {
        r.cpu_shares = 512;
        r.cpu_quota_us = 50_000;
        r.cpu_period_us = 100_000;
        r.cpuset_cpus = "0-3,5".into();
        r.cpuset_mems = "0".into();
        r.memory_limit_bytes = 64 << 20;
        r.memory_swap_limit_bytes = 64 << 20;
        r.hugepages = [("2MB".into(), 0), ("1GB".into(), 1 << 30)].into();
        r.unified = [("memory.high".into(), "60000000".into())].into();
    });
    assert_eq!(
        all,
        json!({
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0-3,5", "mems": "0"},
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "hugepageLimits": [
                {"pageSize": "1GB", "limit": 1 << 30},
                {"pageSize": "2MB", "limit": 0},
            ],
            "unified": {"memory.high": "60000000"},
        })
    );
    let unlimited = built(|r| {
        (r.cpu_quota_us, r.memory_limit_bytes, r.memory_swap_limit_bytes) = (-1, -1, -1);
    });
    assert_eq!(unlimited, json!({"cpu": {"quota": -1}, "memory": {"limit": -1, "swap": -1}}));
}

#[test]
fn limits_out_of_range_are_refused_by_the_name_of_the_field() {
    type Change = fn(&mut Resources);
    let cases: [(&str, Change); 18] = [
        ("cpu_shares", |r| r.cpu_shares = -1),
        ("cpu_shares", |r| r.cpu_shares = 1),
        ("cpu_shares", |r| r.cpu_shares = i64::MAX),
        ("cpu_quota", |r| r.cpu_quota_us = 999),
        ("cpu_quota", |r| r.cpu_quota_us = -2),
        ("cpu_period", |r| r.cpu_period_us = 999),
        ("cpu_period", |r| r.cpu_period_us = 1_000_001),
        ("memory_limit_in_bytes", |r| r.memory_limit_bytes = 1),
        ("memory_limit_in_bytes", |r| r.memory_limit_bytes = -2),
        ("memory_swap_limit_in_bytes", |r| r.memory_swap_limit_bytes = -2),
        ("memory_swap_limit_in_bytes", |r| {
            (r.memory_limit_bytes, r.memory_swap_limit_bytes) = (64 << 20, 63 << 20);
        }),
        ("hugepage_limits", |r| r.hugepages = [("3MB".into(), 0)].into()),
        ("hugepage_limits", |r| r.hugepages = [("2MB".into(), u64::MAX)].into()),
        ("hugepage_limits", |r| r.hugepages = [("../2MB".into(), 0)].into()),
        ("unified", |r| r.unified = [("../x".into(), "1".into())].into()),
        ("unified", |r| r.unified = [("memory.max\n1".into(), "1".into())].into()),
        ("unified", |r| r.unified = [("cgroup.procs".into(), "1".into())].into()),
        ("unified", |r| r.unified = [("memory.max".into(), "1\0".into())].into()),
    ];
    for (field, change) in cases {
        let message = resources(change).refusal();
        assert!(message.starts_with(&format!("resources.{field}: ")), "{message}");
    }
    for list in ["0-", "-1", "0-3,x", ",", "3-1", " 1", "99999", "1--2"] {
        resources(|r| r.cpuset_cpus = list.into()).refusal();
        resources(|r| r.cpuset_mems = list.into()).refusal();
    }
}

#[test]
fn what_the_kernel_does_not_count_is_left_out_with_a_warning() {
    let fixture = Fixture::with(|f| {
        f.spec.resources.memory_limit_bytes = 64 << 20;
        f.spec.resources.memory_swap_limit_bytes = 64 << 20;
        f.spec.resources.hugepages = [("2MB".into(), 0), ("1GB".into(), 1 << 30)].into();
        f.host.swap_accounting = false;
        f.host.hugetlb = false;
    });
    let config = fixture.json();
    let resources = &config["linux"]["resources"];
    assert_eq!(resources["memory"], json!({"limit": 64 << 20}));
    assert_eq!(resources["hugepageLimits"], Value::Null);
    assert_eq!(fixture.warnings().len(), 2);
}

#[test]
fn files_of_the_unified_hierarchy_need_it() {
    let message = Fixture::with(|f| {
        f.host.cgroup_v2 = false;
        f.spec.resources.unified = [("memory.high".into(), "1".into())].into();
    })
    .refusal();
    assert!(message.contains("unified"));
}
