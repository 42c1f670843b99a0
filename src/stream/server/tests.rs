use super::*;

#[test]
fn a_path_is_a_verb_and_a_token() {
    assert_eq!(split("/exec/abc"), Some(("exec", "abc")));
    for path in ["", "/", "/exec", "/exec/", "exec/abc", "/exec/abc/", "/exec/../x", "/exec//abc"] {
        assert_eq!(split(path), None, "{path}");
    }
}

#[tokio::test]
async fn the_kernel_asks_silent_peers_whether_they_live() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (_client, (stream, _)) = (client.expect("connect"), accepted.expect("accept"));
    watch_over(&stream).expect("set");
    assert!(sockopt::socket_keepalive(&stream).expect("get"));
    assert_eq!(sockopt::tcp_keepidle(&stream).expect("get"), KEEP_ALIVE);
}
