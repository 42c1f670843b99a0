//! What archives and compressions may look like: reliability.md, rows S47 to S50, G23 and G28.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::process::{Command, Stdio};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

/// Unpacks a blob whose archive is `archive`.
fn unpack_as(blob: &[u8], archive: &[u8]) -> Result<Vec<String>, Kind> {
    let lab = Lab::new();
    match lab.unpack_blob(blob, Digest::of(archive), 1 << 30) {
        Ok(unpacked) => {
            let list = lab.list();
            drop(unpacked);
            Ok(list)
        }
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn every_compression_gives_the_same_tree() {
    let archive = Tar::default().file("a", "x").file("b", &"y".repeat(100_000)).end();
    let expected = Ok(vec!["f a".to_owned(), "f b".to_owned()]);
    let (front, back) = archive.split_at(700);
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd_of(&archive)].concat();
    for blob in [
        archive.clone(),
        gzip(&archive),
        [gzip(front), gzip(b""), gzip(back)].concat(),
        zstd_of(&archive),
        [zstd_of(front), zstd_of(b""), zstd_of(back)].concat(),
        skippable,
    ] {
        assert_eq!(unpack_as(&blob, &archive), expected);
    }
}

fn zstd_of(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 3).expect("memory")
}

#[test]
fn cut_and_dirty_streams_are_data_loss() {
    let archive = Tar::default().file("a", &"x".repeat(50_000)).file("b", "y").end();
    for whole in [gzip(&archive), zstd_of(&archive)] {
        for cut in [whole.len() - 1, whole.len() / 2, 8] {
            assert_eq!(unpack_as(&whole[..cut], &archive), Err(Kind::DataLoss), "cut at {cut}");
        }
        let dirty = [&whole[..], b"trailing garbage"].concat();
        assert_eq!(unpack_as(&dirty, &archive), Err(Kind::DataLoss), "garbage behind");
        let mut flipped = whole.clone();
        let middle = whole.len() / 2;
        flipped[middle] ^= 0x55;
        assert_eq!(unpack_as(&flipped, &archive), Err(Kind::DataLoss), "flipped");
    }
    for unknown in [&b"\xfd7zXZ\0rest"[..], b"BZh9rest"] {
        assert_eq!(unpack_as(unknown, &archive), Err(Kind::Invalid));
    }
}

#[test]
fn the_blob_s_digest_and_the_diff_id_are_what_counts() {
    let archive = Tar::default().file("a", "x").end();
    let other = Tar::default().file("a", "y").end();
    assert_eq!(unpack_as(&gzip(&archive), &other), Err(Kind::DataLoss));
    let lab = Lab::new();
    let place = Temporary::create(lab.root(), Arc::clone(&lab.trash)).expect("place");
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(Bytes::from_static(b"not the right bytes, and no archive")).expect("room");
    drop(sender);
    let blob = Descriptor { digest: Digest::of(&archive), size: 35 };
    let error =
        unpack_arriving(blob, Digest::of(&archive), place, receiver).expect_err("wrong bytes");
    assert!(matches!(error, UnpackError::Digest { .. }), "{error}");
}

#[test]
fn an_early_end_of_the_transfer_is_not_blamed_on_the_archive() {
    let lab = Lab::new();
    let place = Temporary::create(lab.root(), Arc::clone(&lab.trash)).expect("place");
    let archive = Tar::default().file("a", &"x".repeat(9000)).end();
    let (sender, receiver) = mpsc::channel(1);
    sender.try_send(Bytes::copy_from_slice(&archive[..2000])).expect("room");
    drop(sender);
    let blob = Descriptor { digest: Digest::of(&archive), size: archive.len() as u64 };
    let error =
        unpack_arriving(blob, Digest::of(&archive), place, receiver).expect_err("interrupted");
    assert!(matches!(error, UnpackError::Interrupted), "{error}");
    assert!(!lab.root().exists());
}

#[test]
fn ends_are_as_other_writers_leave_them() {
    let entry = Tar::default().file("a", "x").0;
    let zeros = |n: usize| vec![0; n];
    let one = Ok(vec!["f a".to_owned()]);
    let archive = |parts: &[&[u8]]| {
        let bytes = parts.concat();
        unpack_as(&bytes, &bytes)
    };
    assert_eq!(archive(&[&entry]), one);
    assert_eq!(archive(&[&entry, &zeros(512)]), one);
    assert_eq!(archive(&[&entry, &zeros(1024)]), one);
    assert_eq!(archive(&[&entry, &zeros(10240), b"garbage"]), one);
    assert_eq!(archive(&[]), Ok(vec![]));
    assert_eq!(archive(&[&zeros(1024)]), Ok(vec![]));
    assert_eq!(archive(&[&zeros(512), &entry]), Err(Kind::DataLoss));
    assert_eq!(archive(&[&entry[..700]]), Err(Kind::DataLoss));
    assert_eq!(archive(&[&entry[..512]]), Err(Kind::DataLoss));
    assert_eq!(archive(&[&entry[..100]]), Err(Kind::DataLoss));
    assert_eq!(unpack_as(&gzip(b""), b""), Ok(vec![]));
}

#[test]
fn bombs_end_at_the_limit() {
    let archive = Tar::default().file("zeros", &"\0".repeat(4 << 20)).end();
    for blob in [gzip(&archive), zstd_of(&archive)] {
        assert!(blob.len() < 10_000);
        let lab = Lab::new();
        let error = lab.unpack_blob(&blob, Digest::of(&archive), 1 << 20).expect_err("bomb");
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    }
    let behind = [Tar::default().file("a", "").end(), vec![0; 4 << 20]].concat();
    let lab = Lab::new();
    let error = lab.unpack_blob(&gzip(&behind), Digest::of(&behind), 1 << 20).expect_err("bomb");
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
}

#[test]
fn a_zstd_window_cannot_demand_all_memory() {
    // Frame header: magic, descriptor without size, window descriptor for 2 GiB; a raw block.
    let blob = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[0x01, 0, 0]].concat();
    assert_eq!(unpack_as(&blob, b""), Err(Kind::Invalid));
}

#[test]
fn a_larger_zstd_window_than_is_accepted_is_an_error_that_names_the_key() {
    let archive = Tar::default().file("a", "x").end();
    // A frame with a window of 2 to the power of `log` bytes and the archive as one raw block.
    let frame = |log: u8| {
        let head = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3];
        let block = 1 | (archive.len() as u32) << 3;
        [&head[..], &block.to_le_bytes()[..3], &archive].concat()
    };
    // One segment with its length in eight bytes.
    let segment = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(65_u64 << 20).to_le_bytes()].concat();
    let expected = Ok(vec!["f a".to_owned()]);
    assert_eq!(unpack_as(&frame(23), &archive), expected);
    assert_eq!(unpack_as(&frame(26), &archive), expected);
    // In the second frame as well as in the first.
    for blob in [frame(27), [zstd_of(b""), frame(27)].concat(), segment] {
        let lab = Lab::new();
        let error = lab.unpack_blob(&blob, Digest::of(&archive), 1 << 30).expect_err("too large");
        assert!(matches!(error, UnpackError::Window { limit: 64, .. }), "{error}");
        assert!(error.to_string().contains("image.max_zstd_window"), "{error}");
    }
    // Bytes that are not those that were asked for are called so first: another host may have them.
    let lab = Lab::new();
    let place = Temporary::create(lab.root(), Arc::clone(&lab.trash)).expect("place");
    let (sender, receiver) = mpsc::channel(1);
    let wrong = frame(27);
    let blob = Descriptor { digest: Digest::of(&archive), size: wrong.len() as u64 };
    sender.try_send(Bytes::from(wrong)).expect("room");
    drop(sender);
    let error = unpack_arriving(blob, Digest::of(&archive), place, receiver).expect_err("wrong");
    assert!(matches!(error, UnpackError::Digest { .. }), "{error}");
}

#[test]
fn sizes_that_contradict_each_other_follow_the_pax_record() {
    let data = "x".repeat(600);
    let mut zero = Tar::header(b'0', b"a", 0);
    zero.set_size(0);
    let tar = Tar::default().pax(&[("size", b"600")]).raw(zero, data.as_bytes()).file("b", "");
    assert_eq!(outcome(tar), Ok(vec!["f a".into(), "f b".into()]));
    let mut hidden = Tar::header(b'0', b"a", 0);
    hidden.set_size(600);
    let tar = Tar::default().pax(&[("size", b"0")]).raw(hidden, b"").file("b", "");
    assert_eq!(outcome(tar), Ok(vec!["f a".into(), "f b".into()]));
    for bad in ["-1", "99999999999999999999", "1x", "0x10"] {
        let tar = Tar::default().pax(&[("size", bad.as_bytes())]).file("a", "");
        assert_eq!(outcome(tar), Err(Kind::DataLoss), "{bad}");
    }
    let huge = Tar::default().pax(&[("size", b"1099511627776")]).file("a", "");
    assert_eq!(outcome(huge), Err(Kind::Exhausted));
    let mut directory = Tar::header(b'5', b"d", 0);
    directory.set_size(512);
    assert_eq!(outcome(Tar::default().raw(directory, &[0; 512])), Err(Kind::Invalid));
}

#[test]
fn headers_that_readers_disagree_about_are_refused() {
    let name = |kind, text: &str| {
        Tar::default().raw(Tar::header(kind, b"././@LongLink", text.len() as u64), text.as_bytes())
    };
    let then = |tar: Tar, more: Tar| Tar([tar.0, more.0].concat());
    let file = || Tar::default().file("f", "");
    assert_eq!(outcome(then(name(b'L', "long\0junk"), file())), Ok(vec!["f long".into()]));
    let twice = then(name(b'L', "a"), name(b'L', "b"));
    assert_eq!(outcome(then(twice, file())), Err(Kind::DataLoss));
    let both = then(name(b'L', "a"), Tar::default().pax(&[("path", b"b")]));
    assert_eq!(outcome(then(both, file())), Err(Kind::DataLoss));
    let pax_twice = Tar::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]);
    assert_eq!(outcome(then(pax_twice, file())), Err(Kind::DataLoss));
    assert_eq!(outcome(Tar::default().pax(&[("path", b"a")])), Err(Kind::DataLoss));
    let sparse = Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("a", "");
    assert_eq!(outcome(sparse), Err(Kind::Invalid));
    let mut global = Tar::header(b'g', b"pax_global_header", 0);
    global.set_size(19);
    let comment = Tar::default().raw(global.clone(), b"19 comment=1234567\n");
    assert_eq!(outcome(then(comment, file())), Ok(vec!["f f".into()]));
    let path = Tar::default().raw(global, b"19 path=1234567890\n");
    assert_eq!(outcome(then(path, file())), Err(Kind::Invalid));
    let volume = Tar::default().raw(Tar::header(b'V', b"label", 0), b"");
    assert_eq!(outcome(volume), Err(Kind::Invalid));
    let mut long = Tar::header(b'x', b"pax", 0);
    long.set_size(2 << 20);
    assert_eq!(outcome(Tar::default().raw(long, &vec![b'1'; 2 << 20])), Err(Kind::Exhausted));
}

#[test]
fn broken_numbers_and_checksums_are_data_loss() {
    let broken = |change: fn(&mut tar::OldHeader)| {
        let mut header = Tar::header(b'0', b"a", 0);
        change(header.as_old_mut());
        outcome(Tar::default().raw(header, b""))
    };
    assert_eq!(broken(|old| old.size = *b"00000000008\0"), Err(Kind::DataLoss));
    assert_eq!(broken(|old| old.size = [0xff; 12]), Err(Kind::DataLoss));
    assert_eq!(broken(|old| old.uid = [0xff; 8]), Err(Kind::DataLoss));
    assert_eq!(broken(|old| old.mode = *b"rwxr-xr-"), Err(Kind::DataLoss));
    assert_eq!(broken(|old| old.mtime = [0xff; 12]), Ok(vec!["f a".into()]));
    let mut bytes = Tar::default().file("a", "").end();
    bytes[0] = b'b';
    assert_eq!(unpack_as(&bytes, &bytes), Err(Kind::DataLoss));
    // -1 as an owner would mean "leave it".
    let tar = Tar::default().pax(&[("uid", b"4294967295")]).file("a", "");
    assert_eq!(outcome(tar), Err(Kind::DataLoss));
}

#[test]
fn a_sparse_map_is_checked_and_bounded() {
    let sparse = |pieces: &[(u64, u64)], real: u64, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[0] = b's';
        header.as_old_mut().linkflag[0] = b'S';
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        let gnu = header.as_gnu_mut().expect("GNU");
        gnu.set_real_size(real);
        for (place, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            place.set_offset(*offset);
            place.set_length(*length);
        }
        Tar::default().raw(header, &vec![b'x'; usize::try_from(size).expect("small")])
    };
    let lab = Lab::new();
    let unpacked = lab.unpack(&sparse(&[(1 << 20, 512), (3 << 20, 512)], 4 << 20, 1024).end());
    let unpacked = unpacked.expect("unpack");
    let bytes = fs::read(lab.root().join("s")).expect("read");
    assert_eq!(bytes.len(), 4 << 20);
    assert_eq!(bytes.iter().filter(|b| **b == b'x').count(), 1024);
    assert_eq!((bytes[1 << 20], bytes[(3 << 20) + 511]), (b'x', b'x'));
    assert!(unpacked.bytes() < 16 * 1024);
    drop(unpacked);
    assert_eq!(outcome(sparse(&[(0, 512), (0, 512)], 512, 1024)), Err(Kind::DataLoss));
    assert_eq!(outcome(sparse(&[(0, 512)], 512, 1024)), Err(Kind::DataLoss));
    assert_eq!(outcome(sparse(&[(512, 512)], 600, 512)), Err(Kind::DataLoss));
    assert_eq!(outcome(sparse(&[], 1 << 40, 0)), Err(Kind::Exhausted));
    let mut endless = sparse(&[(0, 1), (1, 1), (2, 1), (3, 1)], 4, 0).0;
    endless[482] = 1;
    let mut block = [0_u8; 512];
    for piece in block[..504].chunks_exact_mut(24) {
        piece.copy_from_slice(b"00000000000\x0000000000000\0");
    }
    block[504] = 1;
    let mut header = tar::Header::from_byte_slice(&endless[..512]).clone();
    header.set_cksum();
    endless[..512].copy_from_slice(header.as_bytes());
    for _ in 0..5000 {
        endless.extend_from_slice(&block);
    }
    assert_eq!(outcome(Tar(endless)), Err(Kind::Exhausted));
}

#[test]
fn what_gnu_tar_writes_is_unpacked_as_gnu_tar_does() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let source = dir.path().join("source");
    let long = "long-".repeat(30);
    fs::create_dir_all(source.join(&long).join(&long)).expect("directory");
    fs::write(source.join(&long).join(&long).join("file"), "deep").expect("file");
    fs::write(source.join("text"), "text\n".repeat(1000)).expect("file");
    fs::hard_link(source.join("text"), source.join("same")).expect("link");
    symlink("/etc/passwd", source.join("soft")).expect("link");
    symlink(&long, source.join("soft-long")).expect("link");
    let mut holes = fs::File::create(source.join("holes")).expect("file");
    std::io::Seek::seek(&mut holes, std::io::SeekFrom::Start(1 << 20)).expect("seek");
    holes.write_all(b"end").expect("write");
    std::os::unix::fs::chown(source.join("text"), Some(3_000_000), Some(7)).expect("chown");
    for format in ["gnu", "oldgnu", "pax", "posix"] {
        let mut tar = Command::new("tar");
        tar.arg(format!("--format={format}")).args(["-C", source.to_str().expect("UTF-8")]);
        if format.ends_with("gnu") {
            tar.arg("-S");
        }
        let tar = tar.args(["-cf", "-", "."]).stderr(Stdio::inherit()).output().expect("run tar");
        assert!(tar.status.success(), "{format}");
        let lab = Lab::new();
        let unpacked = lab.unpack(&tar.stdout).unwrap_or_else(|e| panic!("{format}: {e}"));
        let theirs = dir.path().join(format);
        fs::create_dir(&theirs).expect("directory");
        let mut child = Command::new("tar")
            .args(["-xpf", "-", "-C", theirs.to_str().expect("UTF-8")])
            .stdin(Stdio::piped())
            .spawn()
            .expect("run tar");
        child.stdin.take().expect("piped").write_all(&tar.stdout).expect("feed tar");
        assert!(child.wait().expect("wait").success());
        assert_eq!(describe(&lab.root()), describe(&theirs), "{format}");
        drop(unpacked);
    }
}

/// Everything about a tree that two programs should agree on.
fn describe(root: &Path) -> String {
    let script = "cd \"$1\" && find . -printf '%p %y %m %U %G %n %T@ %s %l\\n' | \
        awk '{ if ($2 == \"d\") $8 = \"\"; print }' | sort && find . -type f -exec cksum {} + | sort";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(root).output().expect("run sh");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}
