//! A request that panics costs its caller an error and is counted; everybody else goes on.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use support::{Running, dial};
use tempfile::TempDir;
use tessera_proto::v1::{self, admin_client::AdminClient, federation_client::FederationClient};
use tessera_server::{AdminAddress, Config};
use tonic::Code;
use tonic::transport::Endpoint;

// alone in its binary: the place is set for the whole process
#[tokio::test]
async fn a_panic_is_caught_and_counted() {
    let dir = TempDir::new().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = Config { admin: AdminAddress::Loopback(free), ..Config::in_dir(dir.path()) };
    let server = Running::start(config).await;
    let channel = dial(&server.handle).await;
    let ask = async || {
        let request = v1::UploadStatusRequest { digest: vec![0; 32].into() };
        FederationClient::new(channel.clone()).upload_status(request).await
    };
    fail::cfg("coordinator/panic", "2*return->off").unwrap();
    for _ in 0..2 {
        let status = ask().await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::Internal, "the coordinator failed at this request; its log says why")
        );
    }
    assert!(ask().await.is_ok(), "the same connection goes on");
    let admin = Endpoint::from_shared(format!("http://{free}")).unwrap().connect().await.unwrap();
    let status = AdminClient::new(admin).get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.panics, 2);
    server.stop().await;
}
