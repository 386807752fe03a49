//! The service for operators: decode, ask the runtime, answer.

use crate::clock::Clock;
use crate::rpc::{Answers, send_blob};
use crate::runtime::Handle;
use crate::space;
use crate::wire;
use tessera_proto::convert::{digest, run_id};
use tessera_proto::v1::admin_server::Admin;
use tessera_proto::v1::{
    DownloadRequest, DownloadResponse, ForkRunRequest, ForkRunResponse, GetStatusRequest, GetStatusResponse, ListGlobalsRequest,
    ListGlobalsResponse, ListMembersRequest, ListMembersResponse, ListRunsRequest, ListRunsResponse, PauseRunRequest,
    PauseRunResponse, ResumeRunRequest, ResumeRunResponse, ShowRunRequest, ShowRunResponse, StopRunRequest, StopRunResponse,
    SubmitRunRequest, SubmitRunResponse, WatchRunRequest, WatchRunResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Entries sent ahead of a slow reader; the history itself is the queue.
const AHEAD: usize = 16;

#[derive(Debug)]
pub(crate) struct AdminService {
    pub(crate) handle: Handle,
}

#[tonic::async_trait]
impl Admin for AdminService {
    type WatchRunStream = Answers<WatchRunResponse>;
    type FetchBlobStream = Answers<DownloadResponse>;

    async fn submit_run(&self, request: Request<SubmitRunRequest>) -> Result<Response<SubmitRunResponse>, Status> {
        let request = request.into_inner();
        let id = if request.run.is_empty() { None } else { Some(run_id(&request.run)?) };
        let run = self.handle.submit(&request.spec_toml, id).await?;
        Ok(Response::new(SubmitRunResponse { run: run.into() }))
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let runs = self.handle.runs().await?;
        Ok(Response::new(ListRunsResponse { runs: runs.into_iter().map(wire::summary).collect() }))
    }

    async fn show_run(&self, request: Request<ShowRunRequest>) -> Result<Response<ShowRunResponse>, Status> {
        let run = run_id(&request.into_inner().run)?;
        Ok(Response::new(wire::detail(self.handle.show(&run).await?)))
    }

    async fn stop_run(&self, request: Request<StopRunRequest>) -> Result<Response<StopRunResponse>, Status> {
        self.handle.stop(&run_id(&request.into_inner().run)?).await?;
        Ok(Response::new(StopRunResponse {}))
    }

    async fn pause_run(&self, request: Request<PauseRunRequest>) -> Result<Response<PauseRunResponse>, Status> {
        let request = request.into_inner();
        self.handle.pause(&run_id(&request.run)?, &request.reason).await?;
        Ok(Response::new(PauseRunResponse {}))
    }

    async fn resume_run(&self, request: Request<ResumeRunRequest>) -> Result<Response<ResumeRunResponse>, Status> {
        self.handle.resume(&run_id(&request.into_inner().run)?).await?;
        Ok(Response::new(ResumeRunResponse {}))
    }

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let request = request.into_inner();
        let mut watch = self.handle.watch(&run_id(&request.run)?, request.after).await?;
        let (queue, entries) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = watch.next() => next,
                    // A reader that is gone ends this, also while nothing happens.
                    () = queue.closed() => return,
                };
                let Some((position, happened)) = next else { return };
                if queue.send(Ok(wire::happened(position, happened))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(entries))))
    }

    async fn list_members(&self, _: Request<ListMembersRequest>) -> Result<Response<ListMembersResponse>, Status> {
        let members = self.handle.members().await?;
        Ok(Response::new(ListMembersResponse { members: members.iter().map(wire::member).collect() }))
    }

    async fn list_globals(&self, request: Request<ListGlobalsRequest>) -> Result<Response<ListGlobalsResponse>, Status> {
        let globals = self.handle.globals(&run_id(&request.into_inner().run)?).await?;
        Ok(Response::new(ListGlobalsResponse { globals: globals.into_iter().map(wire::kept_global).collect() }))
    }

    async fn fork_run(&self, request: Request<ForkRunRequest>) -> Result<Response<ForkRunResponse>, Status> {
        let request = request.into_inner();
        let from = run_id(&request.run)?;
        let id = if request.new_run.is_empty() { None } else { Some(run_id(&request.new_run)?) };
        let spec = Some(request.spec_toml.as_str()).filter(|text| !text.is_empty());
        let run = self.handle.fork(&from, request.from_round, spec, id).await?;
        Ok(Response::new(ForkRunResponse { run: run.into() }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let trouble = self.handle.trouble().await?.unwrap_or_default();
        let (blobs, disk) = (self.handle.blobs().clone(), self.handle.shared.disk.clone());
        let look = move || {
            let space = disk.as_ref().and_then(|(dir, _)| space::free(dir).ok());
            let (data_dir, reserve_bytes) = disk.map(|(dir, reserve)| (dir.display().to_string(), reserve)).unwrap_or_default();
            GetStatusResponse {
                version: tessera_proto::VERSION.into(),
                time_ms: Clock::new().now(),
                data_dir,
                free_bytes: space.as_ref().map_or(0, |s| s.free),
                total_bytes: space.as_ref().map_or(0, |s| s.total),
                reserve_bytes,
                trouble,
                quarantined: blobs.quarantined(),
            }
        };
        let status = tokio::task::spawn_blocking(look).await.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(status))
    }

    async fn fetch_blob(&self, request: Request<DownloadRequest>) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        Ok(Response::new(send_blob(&self.handle, digest, request.offset, None).await?))
    }
}
