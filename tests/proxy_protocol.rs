//! nginx behind full NAT that is told its clients by the PROXY protocol: real connections, downloads, uploads, and a path that loses.
#![allow(clippy::unwrap_used)]

use turnpike_tests::bed::{Lab, available};

const VIP: &str = "203.0.113.86";
const VIP6: &str = "2001:db8:203::86";

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata:
  name: told
  annotations: {turnpike.dev/proxy-protocol: v2, turnpike.dev/load-balancer-ips: \"203.0.113.86,2001:db8:203::86\"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: told}
  ports: [{name: http, port: 80, targetPort: 8081}]
---
apiVersion: v1
kind: Pod
metadata: {name: told-1, labels: {app: told}}
status: {phase: Running, podIPs: [{ip: 10.244.0.11}, {ip: \"fd00:10:244::11\"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: told-2, labels: {app: told}}
status: {phase: Running, podIPs: [{ip: 10.244.0.12}, {ip: \"fd00:10:244::12\"}]}
";

fn curl(lab: &Lab, arguments: &[&str]) -> String {
    let words = [&["-gsS", "--max-time", "20"], arguments].concat();
    lab.run_in("client", "curl", &words).unwrap_or_else(|e| panic!("{arguments:?}: {e:#}"))
}

/// A lab with the Service, and a file of five megabytes.
fn lab(name: &str, workers: &str) -> Lab {
    let lab = Lab::dual(name, workers, "").unwrap();
    let www = lab.dir().join("www");
    lab.run_in("client", "sh", &["-c", &format!("head -c 5M {0}/big >{0}/five", www.display())]).unwrap();
    lab
}

fn serve(lab: &Lab) {
    lab.serve().unwrap();
    let manifest = lab.dir().join("told.yaml");
    std::fs::write(&manifest, MANIFEST).unwrap();
    lab.apply(&manifest.to_string_lossy()).unwrap();
    lab.wait_adopted().unwrap();
}

/// Pods learn the client, and streams arrive as they were sent.
fn clients_are_told(lab: &Lab) {
    for (vip, client) in [(VIP.to_owned(), "198.51.100.7"), (format!("[{VIP6}]"), "2001:db8:c::7")] {
        for _ in 0..10 {
            let told = curl(lab, &["-w", "%{local_port}", &format!("http://{vip}/told")]);
            let (line, port) = told.split_once('\n').unwrap();
            assert_eq!(line, format!("{client} {port}"), "the client's own address and port");
        }
        let file = lab.dir().join("www/five").to_string_lossy().into_owned();
        let original = lab.sum_of("client", &format!("cat {file}")).unwrap();
        for _ in 0..3 {
            let url = format!("http://{vip}/five");
            assert_eq!(lab.sum_of("client", &format!("curl -gsS --max-time 60 {url}")).unwrap(), original);
        }
        // Many requests of one connection, each behind bytes whose numbers differ on both sides.
        let urls: Vec<String> = (0..50).map(|_| format!("http://{vip}/told")).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let lines = curl(lab, &urls);
        let first = lines.lines().next().unwrap();
        assert!(lines.lines().count() == 50 && lines.lines().all(|line| line == first), "{lines}");
        let upload = curl(
            lab,
            &[
                "-X",
                "PUT",
                "-T",
                &file,
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                &format!("http://{vip}/put/five"),
            ],
        );
        assert_eq!(upload, "201");
        for pod in ["web-1", "web-2"] {
            let kept = lab.dir().join("pods").join(pod).join("put/five");
            if kept.exists() {
                let kept = kept.to_string_lossy().into_owned();
                assert_eq!(lab.sum_of("client", &format!("cat {kept}")).unwrap(), original);
                std::fs::remove_file(&kept).unwrap();
            }
        }
    }
    assert_eq!(lab.count("tcp_no_flow").unwrap(), 0);
}

#[test]
fn nginx_learns_its_clients() {
    if available() {
        let lab = lab("y1", "[0, 1]");
        serve(&lab);
        clients_are_told(&lab);
    }
}

#[test]
fn nginx_learns_its_clients_over_a_network_that_loses() {
    if available() {
        let lab = lab("y2", "[1]");
        let file = lab.dir().join("turnpike.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let faults =
            "[dataplane]\nfaults = { seed = 7, loss = 10, duplicate = 5, reorder = 20, delay_ms = 1 }\n";
        std::fs::write(&file, text.replace("[dataplane]\n", faults)).unwrap();
        serve(&lab);
        clients_are_told(&lab);
    }
}
