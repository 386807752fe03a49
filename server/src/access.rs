//! Who may call what: the one table, and the gate in front of every service that goes by it.

use crate::admin::AdminService;
use crate::clock::Clock;
use crate::connection::{Origin, Shown};
use crate::enrolment::EnrolmentService;
use crate::fault::hit;
use crate::identity::{Denied, Peer};
use crate::refusals::caught;
use crate::rpc::FederationService;
use crate::runtime::Handle;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tessera_common::access::Role;
use tessera_common::id::MemberName;
use tessera_proto::v1::admin_server::AdminServer;
use tessera_proto::v1::enrolment_server::EnrolmentServer;
use tessera_proto::v1::federation_server::FederationServer;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Extensions, Status};

/// What a call needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// No certificate: the request holds a token.
    Token,
    /// A certificate of any role.
    Certificate,
    /// The role member or evaluator.
    Serves,
    /// The role observer or admin.
    Reads,
    /// The role admin.
    Administers,
}

/// Every call that there is, and what it needs. A call that is not here is answered to nobody.
pub(crate) const NEEDS: [(&str, Need); 22] = [
    ("/tessera.v1.Enrolment/Enrol", Need::Token),
    ("/tessera.v1.Enrolment/Renew", Need::Certificate),
    ("/tessera.v1.Federation/Connect", Need::Serves),
    ("/tessera.v1.Federation/UploadStatus", Need::Serves),
    ("/tessera.v1.Federation/Upload", Need::Serves),
    ("/tessera.v1.Federation/Download", Need::Serves),
    ("/tessera.v1.Admin/ListRuns", Need::Reads),
    ("/tessera.v1.Admin/ShowRun", Need::Reads),
    ("/tessera.v1.Admin/WatchRun", Need::Reads),
    ("/tessera.v1.Admin/ListMembers", Need::Reads),
    ("/tessera.v1.Admin/FetchBlob", Need::Reads),
    ("/tessera.v1.Admin/ListGlobals", Need::Reads),
    ("/tessera.v1.Admin/GetStatus", Need::Reads),
    ("/tessera.v1.Admin/SubmitRun", Need::Administers),
    ("/tessera.v1.Admin/StopRun", Need::Administers),
    ("/tessera.v1.Admin/PauseRun", Need::Administers),
    ("/tessera.v1.Admin/ResumeRun", Need::Administers),
    ("/tessera.v1.Admin/ForkRun", Need::Administers),
    ("/tessera.v1.Admin/CreateToken", Need::Administers),
    ("/tessera.v1.Admin/RevokeMember", Need::Administers),
    ("/tessera.v1.Admin/UnrevokeMember", Need::Administers),
    ("/tessera.v1.Admin/RotateCertificates", Need::Administers),
];

/// What the call of this path needs; None if there is no such call.
pub(crate) fn need(path: &str) -> Option<Need> {
    NEEDS.iter().find(|(known, _)| *known == path).map(|(_, need)| *need)
}

impl Need {
    fn is_met_by(self, role: Role) -> bool {
        match self {
            Need::Token | Need::Certificate => true,
            Need::Serves => matches!(role, Role::Member | Role::Evaluator),
            Need::Reads => matches!(role, Role::Observer | Role::Admin),
            Need::Administers => role == Role::Admin,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Need::Token => "a token",
            Need::Certificate => "a certificate",
            Need::Serves => "the role member or evaluator",
            Need::Reads => "the role observer or admin",
            Need::Administers => "the role admin",
        }
    }
}

/// Who calls, as the gate found.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Somebody on this machine, or in plaintext: may do everything that is offered there.
    Local,
    /// The holder of a certificate.
    Certified(Arc<Certified>),
}

/// The holder of a certificate, and what the registry says of it at the time of the call.
#[derive(Debug)]
pub(crate) struct Certified {
    pub(crate) peer: Arc<Peer>,
    pub(crate) role: Role,
    pub(crate) labels: Vec<String>,
    /// Modalities that it may have; any if empty.
    pub(crate) modalities: Vec<String>,
}

impl Caller {
    /// The caller of a request that came through the gate.
    ///
    /// # Errors
    /// If it did not.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, Status> {
        let caller = extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("this call did not come through the gate"))
    }

    /// Its certificate, if it has one.
    pub(crate) fn certified(&self) -> Option<&Certified> {
        match self {
            Caller::Local => None,
            Caller::Certified(certified) => Some(certified),
        }
    }

    /// The name in its certificate.
    pub(crate) fn name(&self) -> Option<&MemberName> {
        self.certified().map(|c| &c.peer.name)
    }

    /// True if it may speak for this member.
    pub(crate) fn serves(&self, member: &MemberName) -> bool {
        self.certified().is_none_or(|c| c.peer.may_serve(member))
    }

    /// For logs: a name, or `operator`.
    pub(crate) fn who(&self) -> String {
        self.name().map_or_else(|| "operator".to_owned(), ToString::to_string)
    }
}

/// Services of one listener, behind the table.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    handle: Handle,
    federation: Option<FederationServer<FederationService>>,
    admin: Option<AdminServer<AdminService>>,
    enrolment: Option<EnrolmentServer<EnrolmentService>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Gate {
    /// A gate without a service behind it.
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, federation: None, admin: None, enrolment: None }
    }

    pub(crate) fn federation(mut self, service: FederationServer<FederationService>) -> Self {
        self.federation = Some(service);
        self
    }

    pub(crate) fn admin(mut self, service: AdminServer<AdminService>) -> Self {
        self.admin = Some(service);
        self
    }

    pub(crate) fn enrolment(mut self, service: EnrolmentServer<EnrolmentService>) -> Self {
        self.enrolment = Some(service);
        self
    }

    /// Looks the call up and judges its caller; None is a caller that needs no certificate.
    fn judge(&self, path: &str, origin: &Origin) -> Result<Option<Caller>, Status> {
        let need = need(path).ok_or_else(|| Status::unimplemented("there is no such call, or it is not offered here"))?;
        let peer = match &origin.shown {
            Shown::Local => return Ok(Some(Caller::Local)),
            Shown::Nothing | Shown::Unusable(_) if need == Need::Token => return Ok(None),
            Shown::Nothing => {
                return Err(Status::unauthenticated(format!(
                    "{} needs a certificate, and this connection has none: enrol with a token, which the coordinator's operator makes \
                     with `tessera enrol NAME`",
                    call(path)
                )));
            }
            Shown::Unusable(why) => return Err(Status::unauthenticated(format!("this certificate names nobody: {why}"))),
            Shown::Certificate(peer) => peer,
        };
        let now = Clock::new().now();
        let standing = match peer.check_time(now).and_then(|()| self.handle.shared.identities.standing(peer)) {
            // whoever enrols anew may still show what it had
            Err(_) if need == Need::Token => return Ok(None),
            standing => standing?,
        };
        if !need.is_met_by(standing.role) {
            let needs = format!("{} needs {}", call(path), need.text());
            return Err(Denied::Role { name: peer.name.clone(), role: standing.role, needs }.into());
        }
        let (role, labels, modalities) = (standing.role, standing.labels, standing.modalities);
        let certified = Certified { peer: peer.clone(), role, labels, modalities };
        Ok(Some(Caller::Certified(Arc::new(certified))))
    }

    async fn answer(self, mut request: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
        let refusals = &self.handle.shared.refusals;
        let path = request.uri().path().to_owned();
        let Some(origin) = request.extensions().get::<Origin>().cloned() else {
            return Ok(Status::internal("a request without a connection").into_http());
        };
        origin.spoke();
        match self.judge(&path, &origin) {
            Err(status) => {
                refusals.tell(&origin.who(), call(&path), status.message());
                return Ok(status.into_http());
            }
            Ok(caller) => drop(caller.map(|caller| request.extensions_mut().insert(caller))),
        }
        let work = async {
            if hit("coordinator/panic") {
                panic!("a test asked for it");
            }
            let service = path.rsplit_once('/').map_or("", |(service, _)| service);
            match (service, self.federation, self.admin, self.enrolment) {
                ("/tessera.v1.Federation", Some(mut service), ..) => service.call(request).await,
                ("/tessera.v1.Admin", _, Some(mut service), _) => service.call(request).await,
                ("/tessera.v1.Enrolment", _, _, Some(mut service)) => service.call(request).await,
                _ => Ok(Status::unimplemented(format!("{} is not offered here", call(&path))).into_http()),
            }
        };
        match caught(refusals, call(&path), work).await {
            Ok(answer) => answer,
            Err(status) => Ok(status.into_http()),
        }
    }
}

/// The part of a path that people know: `Admin/StopRun`.
fn call(path: &str) -> &str {
    path.strip_prefix("/tessera.v1.").unwrap_or(path)
}

impl Service<http::Request<Body>> for Gate {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Box::pin(self.clone().answer(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Paths of all calls, from the text that the services are generated from.
    fn calls() -> BTreeSet<String> {
        let text = include_str!("../../proto/tessera/v1/tessera.proto");
        let mut service = "";
        let mut all = BTreeSet::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split_whitespace().next().unwrap();
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                all.insert(format!("/tessera.v1.{service}/{}", rest.split('(').next().unwrap()));
            }
        }
        all
    }

    #[test]
    fn the_table_has_every_call_and_no_other() {
        let known: BTreeSet<String> = NEEDS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(known.len(), NEEDS.len(), "no call is there twice");
        assert_eq!(known, calls());
        assert_eq!(need("/tessera.v1.Admin/Nothing"), None);
    }

    #[test]
    fn the_generated_services_serve_the_paths_of_the_table() {
        let generated = include_str!("../../proto/src/gen/tessera.v1.rs");
        for (path, _) in NEEDS {
            assert!(generated.contains(&format!("\"{path}\" => {{")), "{path}");
        }
    }

    #[test]
    fn every_role_may_do_its_own_and_no_more() {
        let may = |need: Need| -> Vec<&str> {
            let all = tessera_common::access::ROLES;
            all.iter().filter(|(role, _)| need.is_met_by(*role)).map(|(_, name)| *name).collect()
        };
        assert_eq!(may(Need::Certificate), ["member", "evaluator", "observer", "admin"]);
        assert_eq!(may(Need::Serves), ["member", "evaluator"]);
        assert_eq!(may(Need::Reads), ["observer", "admin"]);
        assert_eq!(may(Need::Administers), ["admin"]);
        let open: Vec<&str> = NEEDS.iter().filter(|(_, need)| *need == Need::Token).map(|(path, _)| *path).collect();
        assert_eq!(open, ["/tessera.v1.Enrolment/Enrol"], "one call needs no certificate");
    }
}
