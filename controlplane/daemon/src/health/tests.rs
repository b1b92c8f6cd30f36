use super::*;
use http_body_util::BodyExt;
use turnpike_desired::object::ObjectKey;

fn health(healthy: bool) -> Health {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    Health { healthy, updated: healthy.then_some(now), now }
}

fn check(local_endpoints: usize) -> HealthCheck {
    HealthCheck { service: ObjectKey::new("shop", "web-lb-local"), local_endpoints }
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn rule_h2_local_endpoints_and_a_healthy_gateway_make_200() {
    for (endpoints, healthy, expected) in [(2, true, 200), (0, true, 503), (2, false, 503), (0, false, 503)] {
        let status = service_answer(Some(&check(endpoints)), health(healthy)).status();
        assert_eq!(status.as_u16(), expected, "{endpoints} {healthy}");
    }
    assert_eq!(service_answer(None, health(true)).status().as_u16(), 503);
}

#[test]
fn rule_h4_headers_say_what_it_is_and_how_many() {
    let answer = service_answer(Some(&check(2)), health(true));
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("x-load-balancing-endpoint-weight"), "2");
}

#[tokio::test]
async fn rule_h5_the_body_tab_by_tab() {
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web-lb-local\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(text(service_answer(Some(&check(2)), health(true))).await, expected);
}

#[tokio::test]
async fn rule_h6_healthz_heeds_the_node_and_livez_does_not() {
    let rows = [
        ("/healthz", true, true, 200),
        ("/healthz", true, false, 503),
        ("/healthz", false, true, 503),
        ("/livez", true, false, 200),
        ("/livez", false, true, 503),
        ("/", true, true, 404),
    ];
    for (path, healthy, eligible, expected) in rows {
        let status = node_answer(path, health(healthy), eligible).status();
        assert_eq!(status.as_u16(), expected, "{path} {healthy} {eligible}");
    }
    assert_eq!(
        text(node_answer("/healthz", health(true), false)).await,
        r#"{"lastUpdated":"2023-11-14T22:13:20Z","currentTime":"2023-11-14T22:13:20Z","nodeEligible":false}"#
    );
    assert_eq!(
        text(node_answer("/livez", health(false), true)).await,
        r#"{"lastUpdated":null,"currentTime":"2023-11-14T22:13:20Z"}"#
    );
}

#[test]
fn ports_without_a_server_are_told_in_one_line() {
    let listeners = Listeners::default();
    tell_refused(&listeners, 0, 500);
    assert!(listeners.status().is_empty());
    for refused in [7, 9] {
        tell_refused(&listeners, refused, 500);
        let [told] = &listeners.status()[..] else { panic!("{:?}", listeners.status()) };
        let text = told.last_error.as_ref().unwrap();
        assert!(
            text.starts_with(&format!("{refused} have no server")) && text.contains("LimitNOFILE"),
            "{text}"
        );
    }
    tell_refused(&listeners, 0, 500);
    assert!(listeners.status().is_empty());
}
