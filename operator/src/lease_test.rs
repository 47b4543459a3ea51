use serde_json::{Value, json};

use super::*;
use crate::scripted::{Server, server};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/h/leases/l";

fn seen(holder: Option<&str>, since: Instant) -> Observed {
    Observed {
        holder: holder.map(Into::into),
        resource_version: Some("7".into()),
        since,
    }
}

#[tokio::test(start_paused = true)]
async fn decisions() {
    let now = Instant::now();
    // Late as it may be, one's own Lease is renewed: nobody took it.
    assert_eq!(decide("a", &seen(Some("a"), now), now + 3 * TTL), Decision::Renew);
    assert_eq!(decide("a", &seen(Some("b"), now), now + TTL / 3), Decision::Wait);
    assert_eq!(decide("a", &seen(Some("b"), now), now + TTL), Decision::Acquire);
    assert_eq!(decide("a", &seen(Some(""), now), now), Decision::Acquire);
    assert_eq!(decide("a", &seen(None, now), now), Decision::Acquire);
    // There is none: whoever led by it may lead still.
    let absent = |holder| Observed {
        resource_version: None,
        ..seen(holder, now)
    };
    assert_eq!(decide("a", &absent(Some("a")), now), Decision::Create);
    for holder in [None, Some(""), Some("b")] {
        assert_eq!(decide("a", &absent(holder), now + TTL / 3), Decision::Wait);
        assert_eq!(decide("a", &absent(holder), now + TTL), Decision::Create);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_lease_keeps_the_clock() {
    let now = Instant::now();
    let mut lease = Lease::default();
    lease.metadata.resource_version = Some("7".into());
    assert_eq!(observe(Some(seen(Some("b"), now)), Some(&lease), now + TTL).since, now);
    lease.metadata.resource_version = Some("8".into());
    assert_eq!(observe(Some(seen(Some("b"), now)), Some(&lease), now + TTL).since, now + TTL);
    let absent = observe(Some(seen(Some("b"), now)), None, now + TTL);
    assert_eq!((absent.holder.as_deref(), absent.since), (Some("b"), now + TTL));
    assert_eq!(observe(Some(absent), None, now + 2 * TTL).since, now + TTL);
}

fn lease(holder: &str, version: u64) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l", "namespace": "h", "resourceVersion": version.to_string()},
        "spec": {"holderIdentity": holder, "leaseTransitions": 4},
    })
}

fn election() -> (Election, Fence, Metrics, Server) {
    let (client, server) = server();
    let (fence, metrics) = (Fence::default(), Metrics::new().unwrap());
    let election = Election::new(client, "h", "l", "me", ServerClock::default(), fence.clone(), metrics.clone());
    (election, fence, metrics, server)
}

#[tokio::test(start_paused = true)]
async fn a_standby_takes_over_when_the_lease_was_not_renewed_for_its_time() {
    let (mut election, fence, metrics, mut server) = election();
    let began = Instant::now();
    let script = tokio::spawn(async move {
        // The leader renews once more, then dies: the wait begins anew with what changed.
        for version in [1, 1, 2, 2, 2, 2, 2, 2, 2, 2] {
            server.expect("GET", PATH).await.answer(200, &lease("other", version));
        }
        server.expect("GET", PATH).await.answer(200, &lease("other", 2));
        let claim = server.expect("PUT", PATH).await;
        assert_eq!(claim.body["metadata"]["resourceVersion"], "2");
        assert_eq!(claim.body["spec"]["holderIdentity"], "me");
        assert_eq!(claim.body["spec"]["leaseTransitions"], 5);
        claim.answer(200, &lease("me", 3));
    });
    assert!(!fence.is_open());
    election.acquire().await;
    script.await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert!(fence.is_open());
    assert_eq!(metrics.leader.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_create_it_one_leads() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        let began = Instant::now();
        let create = loop {
            let call = server.next().await;
            if call.method == "POST" {
                break call;
            }
            call.refuse(404, "NotFound", "not found");
        };
        assert!(
            began.elapsed() >= TTL,
            "there may have been one a moment ago: {:?}",
            began.elapsed()
        );
        create.refuse(409, "AlreadyExists", "already exists");
        server.expect("GET", PATH).await.answer(200, &lease("other", 1));
        // Not the leader: it only looks from now on.
        server.expect("GET", PATH).await.answer(200, &lease("", 2));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 3));
    });
    election.acquire().await;
    script.await.unwrap();
    assert!(fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_steps_down_before_anybody_can_take_over() {
    let (mut election, fence, metrics, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 3));
        // From now on nobody answers.
        let mut silent = Vec::new();
        loop {
            silent.push(server.next().await);
        }
    });
    election.acquire().await;
    let began = Instant::now();
    let error = election.keep().await;
    assert!(matches!(error, LeaseError::Expired(_)), "{error}");
    // Renewed after 2 s; 10 s later at the latest it is over, when the Lease has 3 s to live.
    assert!(began.elapsed() < PERIOD + TTL, "{:?}", began.elapsed());
    assert!(!fence.is_open());
    assert_eq!(metrics.leader.get(), 0);
    script.abort();
}

#[tokio::test(start_paused = true)]
async fn the_fence_closes_by_itself_where_the_process_was_frozen() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
    });
    election.acquire().await;
    script.await.unwrap();
    assert!(fence.is_open());
    tokio::time::advance(RENEW_DEADLINE).await;
    assert!(!fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_taken_steps_down() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
        server.expect("PUT", PATH).await.refuse(409, "Conflict", "modified");
        server.expect("GET", PATH).await.answer(200, &lease("other", 5));
    });
    election.acquire().await;
    assert!(matches!(election.keep().await, LeaseError::TakenOver(holder) if holder == "other"));
    assert!(!fence.is_open());
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_handed_over() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
        let free = server.expect("PUT", PATH).await;
        assert_eq!(free.body["spec"]["holderIdentity"], "");
        assert_eq!(free.body["metadata"]["resourceVersion"], "2");
        free.answer(200, &lease("", 3));
    });
    election.acquire().await;
    election.release().await;
    assert!(!fence.is_open());
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_handed_over_also_when_a_renewal_was_under_way() {
    let (mut election, _, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
        // This renewal arrives, but its answer is not waited for.
        let renewal = server.expect("PUT", PATH).await;
        server.expect("GET", PATH).await.answer(200, &lease("me", 3));
        let free = server.expect("PUT", PATH).await;
        assert_eq!(free.body["spec"]["holderIdentity"], "");
        assert_eq!(free.body["metadata"]["resourceVersion"], "3");
        free.answer(200, &lease("", 4));
        drop(renewal);
    });
    election.acquire().await;
    assert!(timeout(PERIOD + Duration::from_millis(100), election.keep()).await.is_err());
    election.release().await;
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_handed_over_also_when_a_renewal_arrives_at_that_moment() {
    let (mut election, _, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("me", 3));
        server.expect("PUT", PATH).await.refuse(409, "Conflict", "modified");
        server.expect("GET", PATH).await.answer(200, &lease("me", 4));
        let free = server.expect("PUT", PATH).await;
        assert_eq!(free.body["spec"]["holderIdentity"], "");
        assert_eq!(free.body["metadata"]["resourceVersion"], "4");
        free.answer(200, &lease("", 5));
    });
    election.release().await;
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_won_at_the_moment_of_the_stop_is_handed_over() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        // The claim arrives, but its answer is not waited for.
        let claim = server.expect("PUT", PATH).await;
        server.expect("GET", PATH).await.answer(200, &lease("me", 2));
        let free = server.expect("PUT", PATH).await;
        assert_eq!(free.body["spec"]["holderIdentity"], "");
        free.answer(200, &lease("", 3));
        drop(claim);
    });
    assert!(timeout(Duration::from_millis(100), election.acquire()).await.is_err());
    election.release().await;
    assert!(!fence.is_open());
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_another_holds_is_not_handed_over() {
    let (mut election, _, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("other", 1));
    });
    election.release().await;
    script.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_deleted_is_created_again() {
    let (mut election, fence, _, mut server) = election();
    let script = tokio::spawn(async move {
        server.expect("GET", PATH).await.answer(200, &lease("", 1));
        server.expect("PUT", PATH).await.answer(200, &lease("me", 2));
        server.expect("PUT", PATH).await.refuse(409, "Conflict", "UID in precondition");
        server.expect("GET", PATH).await.refuse(404, "NotFound", "not found");
        server.expect("GET", PATH).await.refuse(404, "NotFound", "not found");
        let create = server.expect("POST", "/apis/coordination.k8s.io/v1/namespaces/h/leases").await;
        create.answer(201, &lease("me", 9));
        let renewal = server.expect("PUT", PATH).await;
        assert_eq!(renewal.body["metadata"]["resourceVersion"], "9");
        renewal.answer(200, &lease("me", 10));
        server
    });
    election.acquire().await;
    assert!(timeout(3 * PERIOD + Duration::from_secs(1), election.keep()).await.is_err());
    assert!(fence.is_open());
    script.await.unwrap();
}
