//! The service that gives certificates: for a token, and for a certificate that is about to end.

use crate::access::Caller;
use crate::clock::Clock;
use crate::connection::Origin;
use crate::identity::{Denied, Issued};
use crate::refusals::joined;
use crate::runtime::Handle;
use crate::wire;
use std::net::{IpAddr, Ipv4Addr};
use tessera_common::audit::Entry;
use tessera_proto::v1::enrolment_server::Enrolment;
use tessera_proto::v1::{Credentials, EnrolRequest, RenewRequest};
use tessera_proto::{VERSION, version};
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub(crate) struct EnrolmentService {
    pub(crate) handle: Handle,
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Credentials>, Status> {
        let from = request.extensions().get::<Origin>().and_then(|o| o.addr);
        // never shown or logged as a whole: it has the secret
        let EnrolRequest { version, secret, signing_request } = request.into_inner();
        let from_ip = from.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |addr| addr.ip());
        let who = from.map_or_else(|| "local".to_owned(), |addr| addr.to_string());
        let identities = self.handle.shared.identities.clone();
        let work = move || identities.enrol(&secret, &signing_request, from_ip, Clock::new().now());
        self.issue("enrol", who, &version, work).await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Credentials>, Status> {
        let caller = Caller::of(request.extensions())?;
        let certified = caller.certified().ok_or_else(|| Status::unauthenticated("only a certificate can be renewed"))?;
        let (peer, who) = (certified.peer.clone(), caller.who());
        let RenewRequest { version, signing_request } = request.into_inner();
        let identities = self.handle.shared.identities.clone();
        let work = move || identities.renew(&peer, &signing_request, Clock::new().now());
        self.issue("renew", who, &version, work).await
    }
}

impl EnrolmentService {
    /// Does the work, which signs and writes files, where it holds up nobody; notes how it went.
    async fn issue(
        &self,
        what: &'static str,
        who: String,
        version: &str,
        work: impl FnOnce() -> Result<Issued, Denied> + Send + 'static,
    ) -> Result<Response<Credentials>, Status> {
        let shared = &self.handle.shared;
        let refused = |status: &Status| shared.refusals.tell(&who, what, status.message());
        version::check_between("the agent", version, "the coordinator", VERSION)
            .map_err(Status::failed_precondition)
            .inspect_err(refused)?;
        let done = joined(&shared.refusals, what, tokio::task::spawn_blocking(work).await)?;
        let issued = done.map_err(Status::from).inspect_err(refused)?;
        tracing::info!(name = %issued.name, role = %issued.role, from = who, what, "a certificate is given");
        let verdict = format!("ok: role {}, until {}", issued.role, issued.expires);
        shared.audit.note(Entry { who, what: what.into(), member: Some(issued.name.to_string()), verdict, ..Entry::default() });
        Ok(Response::new(wire::credentials(issued)))
    }
}
