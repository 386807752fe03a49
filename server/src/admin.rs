//! The service for operators: decode, ask the runtime, answer.

use crate::access::Caller;
use crate::clock::Clock;
use crate::identity::{Denied, Identities, NewToken};
use crate::quota::Work;
use crate::refusals::joined;
use crate::rpc::{Answers, send_blob};
use crate::runtime::Handle;
use crate::space;
use crate::wire;
use std::time::Duration;
use tessera_common::access::Role;
use tessera_common::audit::Entry;
use tessera_common::id::MemberName;
use tessera_proto::convert::{digest, member_name, run_id, shorten};
use tessera_proto::v1::admin_server::Admin;
use tessera_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, DownloadRequest, DownloadResponse, ForkRunRequest, ForkRunResponse,
    GetStatusRequest, GetStatusResponse, ListGlobalsRequest, ListGlobalsResponse, ListMembersRequest, ListMembersResponse,
    ListRunsRequest, ListRunsResponse, PauseRunRequest, PauseRunResponse, ResumeRunRequest, ResumeRunResponse,
    RevokeMemberRequest, RevokeMemberResponse, RotateCertificatesRequest, RotateCertificatesResponse, ShowRunRequest,
    ShowRunResponse, StopRunRequest, StopRunResponse, SubmitRunRequest, SubmitRunResponse, UnrevokeMemberRequest,
    UnrevokeMemberResponse, WatchRunRequest, WatchRunResponse,
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

impl AdminService {
    /// Notes what an operator did, and how it went.
    fn noted<T>(&self, caller: &Caller, what: &str, about: About<'_>, outcome: Result<T, Status>) -> Result<T, Status> {
        let verdict = outcome.as_ref().map_or_else(|status| format!("refused: {}", status.message()), |_| "ok".to_owned());
        let (run, member) = match about {
            About::Run(run) => (Some(shorten(run.to_owned())), None),
            About::Member(name) => (None, Some(shorten(name.to_owned()))),
            About::Coordinator => (None, None),
        };
        self.handle.shared.audit.note(Entry {
            who: caller.who(),
            what: what.to_owned(),
            run,
            member,
            verdict: shorten(verdict),
            ..Entry::default()
        });
        outcome
    }

    /// Asks the registry for something that may sign and write files.
    async fn registry<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(Identities) -> Result<T, Denied> + Send + 'static,
    ) -> Result<T, Status> {
        let identities = self.handle.shared.identities.clone();
        let done = tokio::task::spawn_blocking(move || work(identities)).await;
        Ok(joined(&self.handle.shared.refusals, what, done)??)
    }

    async fn create(&self, request: CreateTokenRequest) -> Result<CreateTokenResponse, Status> {
        let CreateTokenRequest { name, role, labels, modalities, serves, valid_ms, address } = request;
        let role: Role = role.parse().map_err(Status::invalid_argument)?;
        let address = Some(address).filter(|address| !address.is_empty());
        let valid = Duration::from_millis(valid_ms);
        let new = NewToken { name: member_name(&name)?, role, labels, modalities, serves, valid, address };
        let token = self.registry("create-token", move |all| all.create_token(new, Clock::new().now())).await?;
        Ok(CreateTokenResponse { token: token.reveal(), expires_ms: token.expires })
    }

    async fn fork(&self, request: ForkRunRequest) -> Result<String, Status> {
        let from = run_id(&request.run)?;
        let id = if request.new_run.is_empty() { None } else { Some(run_id(&request.new_run)?) };
        let spec = Some(request.spec_toml.as_str()).filter(|text| !text.is_empty());
        Ok(self.handle.fork(&from, request.from_round, spec, id).await?.into())
    }
}

/// What something was done to.
enum About<'a> {
    Run(&'a str),
    Member(&'a str),
    Coordinator,
}

#[tonic::async_trait]
impl Admin for AdminService {
    type WatchRunStream = Answers<WatchRunResponse>;
    type FetchBlobStream = Answers<DownloadResponse>;

    async fn submit_run(&self, request: Request<SubmitRunRequest>) -> Result<Response<SubmitRunResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let id = if request.run.is_empty() { None } else { Some(run_id(&request.run)?) };
        let run = self.handle.submit(&request.spec_toml, id).await.map_err(Status::from);
        let named = run.as_ref().map_or_else(|_| request.run.clone(), ToString::to_string);
        let run = self.noted(&caller, "submit", About::Run(&named), run)?;
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
        let caller = Caller::of(request.extensions())?;
        let run = run_id(&request.into_inner().run)?;
        let done = self.handle.stop(&run).await.map_err(Status::from);
        self.noted(&caller, "stop", About::Run(run.as_str()), done)?;
        Ok(Response::new(StopRunResponse {}))
    }

    async fn pause_run(&self, request: Request<PauseRunRequest>) -> Result<Response<PauseRunResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let run = run_id(&request.run)?;
        let done = self.handle.pause(&run, &request.reason).await.map_err(Status::from);
        self.noted(&caller, "pause", About::Run(run.as_str()), done)?;
        Ok(Response::new(PauseRunResponse {}))
    }

    async fn resume_run(&self, request: Request<ResumeRunRequest>) -> Result<Response<ResumeRunResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let run = run_id(&request.into_inner().run)?;
        let done = self.handle.resume(&run).await.map_err(Status::from);
        self.noted(&caller, "resume", About::Run(run.as_str()), done)?;
        Ok(Response::new(ResumeRunResponse {}))
    }

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let permit = self.handle.shared.quotas.begin(&Caller::of(request.extensions())?, Work::Download)?;
        let request = request.into_inner();
        let mut watch = self.handle.watch(&run_id(&request.run)?, request.after).await?;
        let (queue, entries) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let _permit = permit;
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
        let joined = self.handle.members().await?;
        let mut known = self.handle.shared.identities.known();
        let mut members: Vec<_> = joined.iter().map(|m| (m.member.clone(), wire::member(m, known.remove(&m.member)))).collect();
        members.extend(known.into_iter().map(|(name, known)| (name.clone(), wire::not_joined(&name, known))));
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Response::new(ListMembersResponse { members: members.into_iter().map(|(_, member)| member).collect() }))
    }

    async fn list_globals(&self, request: Request<ListGlobalsRequest>) -> Result<Response<ListGlobalsResponse>, Status> {
        let globals = self.handle.globals(&run_id(&request.into_inner().run)?).await?;
        Ok(Response::new(ListGlobalsResponse { globals: globals.into_iter().map(wire::kept_global).collect() }))
    }

    async fn fork_run(&self, request: Request<ForkRunRequest>) -> Result<Response<ForkRunResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let from = request.run.clone();
        let run = self.fork(request).await;
        let run = self.noted(&caller, "fork", About::Run(&from), run)?;
        Ok(Response::new(ForkRunResponse { run }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let trouble = self.handle.trouble().await?.unwrap_or_default();
        let shared = self.handle.shared.clone();
        let look = move || {
            let space = shared.disk.as_ref().and_then(|(dir, _)| space::free(dir).ok());
            let disk = shared.disk.as_ref().map(|(dir, reserve)| (dir.display().to_string(), *reserve));
            let (data_dir, reserve_bytes) = disk.unwrap_or_default();
            let (certificate_expires_ms, authority) = shared.identities.status();
            GetStatusResponse {
                version: tessera_proto::VERSION.into(),
                time_ms: Clock::new().now(),
                data_dir,
                free_bytes: space.as_ref().map_or(0, |s| s.free),
                total_bytes: space.as_ref().map_or(0, |s| s.total),
                reserve_bytes,
                trouble,
                quarantined: shared.blobs.quarantined(),
                certificate_expires_ms,
                authority,
                panics: shared.refusals.panics(),
                refused: shared.refusals.refused(),
            }
        };
        let status = joined(&self.handle.shared.refusals, "Admin/GetStatus", tokio::task::spawn_blocking(look).await)?;
        Ok(Response::new(status))
    }

    async fn fetch_blob(&self, request: Request<DownloadRequest>) -> Result<Response<Self::FetchBlobStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let permit = self.handle.shared.quotas.begin(&caller, Work::Download)?;
        let request = request.into_inner();
        let digest = digest(&request.digest)?;
        if caller.certified().is_some_and(|c| c.role != Role::Admin) && !self.handle.is_published(&digest).await? {
            let short = digest.short();
            return Err(Status::permission_denied(format!(
                "an observer fetches globals and statistics of runs, and {short} is neither, or is not kept any more"
            )));
        }
        Ok(Response::new(send_blob(&self.handle, digest, request.offset, None, permit).await?))
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let request = request.into_inner();
        let name = request.name.clone();
        let made = self.create(request).await;
        Ok(Response::new(self.noted(&caller, "create-token", About::Member(&name), made)?))
    }

    async fn revoke_member(&self, request: Request<RevokeMemberRequest>) -> Result<Response<RevokeMemberResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let RevokeMemberRequest { name, reason } = request.into_inner();
        let (member, reason): (MemberName, String) = (member_name(&name)?, shorten(reason));
        let done = self.registry("revoke", move |all| all.revoke(&member, &reason)).await;
        self.noted(&caller, "revoke", About::Member(&name), done)?;
        Ok(Response::new(RevokeMemberResponse {}))
    }

    async fn unrevoke_member(&self, request: Request<UnrevokeMemberRequest>) -> Result<Response<UnrevokeMemberResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let name = request.into_inner().name;
        let member = member_name(&name)?;
        let done = self.registry("unrevoke", move |all| all.unrevoke(&member)).await;
        self.noted(&caller, "unrevoke", About::Member(&name), done)?;
        Ok(Response::new(UnrevokeMemberResponse {}))
    }

    async fn rotate_certificates(
        &self,
        request: Request<RotateCertificatesRequest>,
    ) -> Result<Response<RotateCertificatesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let authority = request.into_inner().authority;
        let what = if authority { "rotate-authority" } else { "rotate-certificate" };
        let done = self.registry(what, move |all| all.rotate(authority, Clock::new().now())).await;
        self.noted(&caller, what, About::Coordinator, done)?;
        let (certificate_expires_ms, authority) = self.handle.shared.identities.status();
        Ok(Response::new(RotateCertificatesResponse { authority, certificate_expires_ms }))
    }
}
