//! What is believed of a container whose monitor does not answer.

use super::*;

const EXIT: Exit = Exit { code: 7, at_ns: 1, oom_killed: false, lost_bytes: 0 };

async fn told(dir: &Path) -> Event {
    let (sender, mut events) = mpsc::channel(1);
    watch(dir.to_owned(), sender).await;
    events.recv().await.expect("an event")
}

#[tokio::test]
async fn only_a_record_that_is_certainly_absent_is_a_loss() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join(conmon::EXIT);
    assert!(matches!(left_behind(dir.path()), Ok(None)));
    assert!(matches!(told(dir.path()).await, Event::Lost));

    // What stands there cannot be read.
    fs::create_dir(&file).expect("directory");
    left_behind(dir.path()).expect_err("a directory");
    assert!(matches!(told(dir.path()).await, Event::Unknown(_)));
    fs::remove_dir(&file).expect("remove");

    // Who listens cannot be told.
    let socket = dir.path().join(conmon::SOCKET);
    std::os::unix::fs::symlink(conmon::SOCKET, &socket).expect("link");
    assert!(matches!(told(dir.path()).await, Event::Unknown(_)));
    fs::remove_file(&socket).expect("remove");

    // Nobody does.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bind"));
    assert!(matches!(told(dir.path()).await, Event::Lost));

    fs::write(&file, EXIT.to_text()).expect("write");
    assert_eq!(left_behind(dir.path()).expect("read"), Some(EXIT));
    assert!(matches!(told(dir.path()).await, Event::Exited(EXIT)));

    fs::write(&file, "torn").expect("write");
    assert!(matches!(left_behind(dir.path()), Ok(None)));
    assert!(matches!(told(dir.path()).await, Event::Lost));
}
