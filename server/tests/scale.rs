//! Many members in few agents, over real sockets and a real disk.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use support::{Agent, Running, good, member, published, spec};
use tempfile::TempDir;
use tessera_server::Config;
use tonic::transport::Endpoint;

const MEMBERS: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_members_give_one_digest_however_they_are_hosted() {
    let members: Vec<_> = (0..MEMBERS).map(|i| member(&format!("m{i:04}"), &["left", "right"][..1 + i % 2])).collect();
    let text = spec(2).replace("members = 4", &format!("members = {MEMBERS}"));
    let text = text.replace("size = 4", &format!("size = {MEMBERS}")).replace("quorum = 3", &format!("quorum = {MEMBERS}"));
    let mut digests = Vec::new();
    for agents in [1, 3] {
        let dir = TempDir::new().unwrap();
        let server = Running::start(Config::in_dir(dir.path())).await;
        for (i, hosted) in members.chunks(MEMBERS.div_ceil(agents)).enumerate() {
            let agent = Agent::new(&format!("agent-{i}"), hosted.to_vec(), good());
            let channel = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap().connect().await.unwrap();
            tokio::spawn(async move { agent.converse(channel).await });
        }
        digests.push(published(&server.complete(&text).await));
        let members = server.handle.members().await.unwrap();
        assert_eq!(members.iter().filter(|m| m.online).count(), MEMBERS, "no connection was lost on the way");
        server.stop().await;
    }
    assert_eq!(digests[0].len(), 3);
    assert_eq!(digests[0], digests[1]);
}
