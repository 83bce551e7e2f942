//! The walk of a first user, step by step (from the IPv6 demo of Cilium, whose commands it keeps).

/// One step: what it is for, what is typed, and what must be seen.
#[derive(Debug)]
pub struct Step {
    /// Shown above the command.
    pub why: &'static str,
    /// The command, for bash.
    pub script: &'static str,
    /// Every one of these must be in the output.
    pub expect: &'static [&'static str],
}

/// The pods of the demo, as they stand there.
const PODS: &str = r#"kubectl apply -f - <<EOF
apiVersion: v1
kind: Pod
metadata:
  name: client
  labels:
    app: client
spec:
  containers:
  - name: curl-client
    image: curlimages/curl
    imagePullPolicy: IfNotPresent
    command: ["/bin/sh"]
    args: ["-c", "while true; do sleep 1000; done"]
  nodeSelector:
    kubernetes.io/hostname: kind-control-plane
---
apiVersion: v1
kind: Pod
metadata:
  name: server
  labels:
    app: server
spec:
  containers:
  - name: server
    image: nginx
    imagePullPolicy: IfNotPresent
    ports:
    - containerPort: 80
  nodeSelector:
    kubernetes.io/hostname: kind-worker
EOF"#;

/// The install command of the demo.
pub const INSTALL: &str = "seta install --set ipv4.enabled=false --set ipv6.enabled=true --set routingMode=native \
 --set autoDirectNodeRoutes=true --set ipv6NativeRoutingCIDR=fd00:10::/32 \
 --set bpf.masquerade=true --set kubeProxyReplacement=true --set debug.enabled=true";

/// All steps but taking the lab down.
pub const STEPS: &[Step] = &[
    Step {
        why: "A cluster of two nodes on this machine, in network namespaces",
        script: "seta lab up --ip-family ipv6",
        expect: &[],
    },
    Step {
        why: "The control plane is IPv6",
        script: "kubectl get po/kube-controller-manager-kind-control-plane -n kube-system -o yaml | grep -e service-cluster -e cluster-cidr",
        expect: &[
            "--cluster-cidr=fd00:10:244::/56",
            "--service-cluster-ip-range=fd00:10:96::/112",
        ],
    },
    Step {
        why: "Each node has a block of pod addresses",
        script: r#"for node in kind-control-plane kind-worker; do
  echo "$node pod CIDRs:"
  kubectl get nodes $node -o go-template --template='{{range .spec.podCIDRs}}{{printf "%s\n" .}}{{end}}'
done"#,
        expect: &["fd00:10:244::/64", "fd00:10:244:1::/64"],
    },
    Step {
        why: "The nodes are not ready: there is no CNI plugin yet",
        script: "kubectl get nodes -o wide",
        expect: &[
            "NotReady",
            "INTERNAL-IP",
            "fc00:f853:ccd:e793::2",
            "fc00:f853:ccd:e793::3",
        ],
    },
    Step {
        why: "Install Seta",
        script: INSTALL,
        expect: &[],
    },
    Step {
        why: "Wait until everything that was measured is well",
        script: "seta status --wait",
        expect: &[
            "Cilium:",
            "OK",
            "Operator:",
            "DaemonSet",
            "Desired: 2, Ready: 2/2, Available: 2/2",
        ],
    },
    Step {
        why: "Now the nodes are ready",
        script: "kubectl wait --for=condition=Ready nodes --all --timeout=30s && kubectl get nodes -o wide",
        expect: &["kind-worker condition met", " Ready "],
    },
    Step {
        why: "The control plane knows the way to the worker's pods",
        script: r#"seta lab exec kind-control-plane -- ip -6 route | grep "fd00:10:244:1::/64""#,
        expect: &["fd00:10:244:1::/64 via fc00:f853:ccd:e793::3 dev eth0"],
    },
    Step {
        why: "And the worker the way back",
        script: r#"seta lab exec kind-worker -- ip -6 route | grep "fd00:10:244::/64""#,
        expect: &["fd00:10:244::/64 via fc00:f853:ccd:e793::2 dev eth0"],
    },
    Step {
        why: "A client on one node, a server on the other",
        script: PODS,
        expect: &["pod/client created", "pod/server created"],
    },
    Step {
        why: "Wait for them",
        script: "kubectl wait --for=condition=Ready pod/client pod/server --timeout=60s",
        expect: &["pod/client condition met", "pod/server condition met"],
    },
    Step {
        why: "They have addresses from their nodes' blocks",
        script: "kubectl get po -o wide",
        expect: &[
            "client",
            "server",
            "Running",
            "fd00:10:244::",
            "fd00:10:244:1::",
            "kind-control-plane",
            "kind-worker",
        ],
    },
    Step {
        why: "From pod to pod across nodes, through our own datapath",
        script: r#"kubectl exec po/client -- curl -6 -s -o /dev/null -w "%{http_code}" "http://[$(kubectl get po server -o jsonpath='{.status.podIP}')]""#,
        expect: &["200"],
    },
    Step {
        why: "A service in front of the server",
        script: "kubectl expose po server --type=ClusterIP --port=80 --labels app=server && kubectl describe svc/server",
        expect: &[
            "service/server exposed",
            "IP Family Policy:",
            "SingleStack",
            "IPs:                      fd00:10:96::",
            "Port:                     <unset>  80/TCP",
            "Endpoints:                [fd00:10:244:1::",
        ],
    },
    Step {
        why: "From the client to the server by the service's address: its socket is connected to the server itself",
        script: r#"kubectl exec po/client -- curl -6 -s -o /dev/null -w "%{http_code}" "http://[$(kubectl get svc server -o jsonpath='{.spec.clusterIP}')]""#,
        expect: &["200"],
    },
    Step {
        why: "And by its name, once cluster DNS is ready",
        script: "kubectl -n kube-system rollout status deploy/coredns --timeout=60s && kubectl exec po/client -- curl -6 -s -vvv http://server.default.svc",
        expect: &[
            "successfully rolled out",
            "Connected to server.default.svc (fd00:10:96::",
            "< HTTP/1.1 200 OK",
        ],
    },
    Step {
        why: "Services, as the kernel of every node has them",
        script: "seta service list && seta bpf lb list --node kind-worker && seta bpf nat list",
        expect: &[
            "==== kind-control-plane",
            "==== kind-worker",
            "ClusterIP      1 => [fd00:10:244:1::",
            "SERVICE ADDRESS",
        ],
    },
    Step {
        why: "The configuration",
        script: "seta config view | grep -e big -e ipv6",
        expect: &["enable-ipv6-big-tcp", "enable-ipv6 "],
    },
    Step {
        why: "Change a setting: the agents restart, the datapath does not notice",
        script: "seta config set monitor-aggregation none && seta status --wait",
        expect: &[
            "Patching ConfigMap cilium-config with monitor-aggregation=none",
            "Restarted Cilium pods",
            "OK",
        ],
    },
    Step {
        why: "What an agent measures: how the programs in the kernel forward and translate",
        script: "kubectl -n kube-system exec ds/cilium -- cilium-dbg status",
        expect: &[
            "KubeProxyReplacement:    True   [eth0 fc00:f853:ccd:e793::",
            "Routing:                 Network: Native   Host: BPF",
            "Masquerading:            BPF   [eth0]   fd00:10::/32 [IPv4: Disabled, IPv6: Enabled]",
        ],
    },
    Step {
        why: "What an agent knows: its endpoints, and the drops and forwards that the kernel counted",
        script: "kubectl -n kube-system exec ds/cilium -- cilium-dbg endpoint list && kubectl -n kube-system exec ds/cilium -- cilium-dbg bpf metrics list",
        expect: &["ENDPOINT", "IDENTITY", "k8s:app=", "REASON", "DIRECTION"],
    },
];

/// The end of the walk.
pub const GOODBYE: &[Step] = &[
    Step {
        why: "Remove Seta from the cluster",
        script: "seta uninstall",
        expect: &[],
    },
    Step {
        why: "Take the lab down; nothing is left on the machine",
        script: "seta lab down",
        expect: &[],
    },
];
