# shellcheck shell=bash
# How each component of the cluster is configured and started. Sourced after state.sh.

start_etcd() {
  # No fsync: what is lost when the machine loses power is only a test cluster.
  launch etcd "$KUBE" etcd --name holdfast --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:2379" --advertise-client-urls "http://127.0.0.1:2379" \
    --listen-peer-urls "http://127.0.0.1:2380" --initial-advertise-peer-urls "http://127.0.0.1:2380" --initial-cluster "holdfast=http://127.0.0.1:2380"
}

start_apiserver() {
  launch apiserver "$KUBE" kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
    --bind-address="$API_ADDRESS" --advertise-address="$API_ADDRESS" --secure-port="$API_PORT" --service-cluster-ip-range="$SERVICE_NETWORK" \
    --tls-cert-file="$DIR/pki/apiserver.crt" --tls-private-key-file="$DIR/pki/apiserver.key" --client-ca-file="$DIR/pki/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-jwks-uri=https://kubernetes.default.svc.cluster.local/openid/v1/jwks \
    --service-account-signing-key-file="$DIR/pki/sa.key" --service-account-key-file="$DIR/pki/sa.pub" \
    --feature-gates=MutatingAdmissionPolicy=true --runtime-config=admissionregistration.k8s.io/v1beta1=true --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --endpoint-reconciler-type=lease \
    --kubelet-certificate-authority="$DIR/pki/ca.crt" --kubelet-client-certificate="$DIR/pki/admin.crt" --kubelet-client-key="$DIR/pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP \
    --audit-policy-file="$DIR/audit.yaml" --audit-log-path="$DIR/logs/audit.log" --audit-log-maxsize=1024 --audit-log-maxbackup=1
}

start_controllers() {
  launch controllers "$KUBE" kube-controller-manager --kubeconfig="$DIR/controllers.kubeconfig" --bind-address=127.0.0.1 \
    --service-account-private-key-file="$DIR/pki/sa.key" --root-ca-file="$DIR/pki/ca.crt" --use-service-account-credentials \
    --cluster-cidr="$POD_NETWORK" --allocate-node-cidrs=false --leader-elect=false
}

start_scheduler() {
  launch scheduler "$KUBE" kube-scheduler --kubeconfig="$DIR/scheduler.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false
}

start_proxy() { launch proxy "$KUBE" kube-proxy --config="$DIR/proxy.yaml" --hostname-override=node1; }
start_dns() { launch dns "$COREDNS" -conf "$DIR/Corefile"; }
start_containerd() { launch "containerd-$1" containerd --config "$DIR/$1/containerd.toml"; }
start_kubelet() {
  launch "kubelet-$1" "$KUBE" kubelet --config="$DIR/$1/kubelet.yaml" --kubeconfig="$DIR/$1/kubelet.kubeconfig" \
    --hostname-override="$1" --node-ip="$(node_address "$1")" --root-dir="$DIR/$1/kubelet"
}

# --- answers ---------------------------------------------------------------------------------------------------------------------
api_ready() { kubectl --request-timeout=5s get --raw /readyz; }
containerd_ready() { ctr --connect-timeout 2s --address "$(node_socket "$1")" version; }
node_ready() { kubectl --request-timeout=5s get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
kubelet_healthy() { curl -fsS --max-time 2 "http://127.0.0.1:$((10248 + 100 * $(node_number "$1")))/healthz"; }
proxy_ready() { curl -fsS --max-time 2 http://127.0.0.1:10256/healthz; }
dns_ready() { curl -fsS --max-time 2 http://127.0.0.1:8181/ready; }
service_account_ready() { kubectl --request-timeout=5s get serviceaccount default -n default; }

# --- certificates ----------------------------------------------------------------------------------------------------------------
certificate() { # NAME SUBJECT [ALTERNATIVE NAMES]
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2> /dev/null
}

write_kubeconfig() { # FILE CERTIFICATE
  (
    umask 077
    cat > "$1" << YAML
apiVersion: v1
kind: Config
clusters: [{name: holdfast, cluster: {server: "https://$API_ADDRESS:$API_PORT", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $2, user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}}]
contexts: [{name: holdfast, context: {cluster: holdfast, user: $2}}]
current-context: holdfast
YAML
  )
}

write_certificates() {
  local node names
  mkdir -p "$DIR/pki"
  (
    cd "$DIR/pki" || exit
    umask 077
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=holdfast-test-ca -days 3650 -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign
    openssl genrsa -out sa.key 2048 2> /dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2> /dev/null
    names="IP:$API_ADDRESS,IP:${SERVICE_NETWORK%.0/*}.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    certificate apiserver /CN=kube-apiserver "$names"
    certificate admin /O=system:masters/CN=admin
    certificate controllers /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
    certificate dns /O=system:masters/CN=dns
    for node in "${NODES[@]}"; do
      certificate "$node" "/O=system:nodes/CN=system:node:$node" "IP:$(node_address "$node"),DNS:$node"
      write_kubeconfig "$DIR/$node/kubelet.kubeconfig" "$node"
    done
    write_kubeconfig "$DIR/controllers.kubeconfig" controllers
    write_kubeconfig "$DIR/scheduler.kubeconfig" scheduler
    write_kubeconfig "$DIR/proxy.kubeconfig" proxy
    write_kubeconfig "$DIR/dns.kubeconfig" dns
    write_kubeconfig "$KUBECONFIG_ADMIN" admin
  )
}

# --- configuration ---------------------------------------------------------------------------------------------------------------
put() { # FILE: standard input, if it is not what the file holds (kube-proxy ends when its file is written)
  cat > "$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

write_configuration() {
  local node
  put "$DIR/audit.yaml" << 'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
YAML
  put "$DIR/proxy.yaml" << YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_NETWORK
detectLocalMode: ClusterCIDR
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: [$POD_NETWORK]
clientConnection: {kubeconfig: $DIR/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
  put "$DIR/Corefile" << TEXT
.:53 {
  bind $API_ADDRESS
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $DIR/dns.kubeconfig
    pods insecure
    ttl 5
  }
  cache 5
}
TEXT
  for node in "${NODES[@]}"; do write_node "$node"; done
}

write_node() {
  local node=$1 snapshotter=overlayfs taints="[]"
  mkdir -p "$DIR/$node/cni"
  # An overlay on an overlay is refused (a cluster inside a container): copy instead.
  [ "$(stat -fc %T "$DIR")" != overlayfs ] || snapshotter=native
  put "$DIR/$node/cni/10-holdfast.conflist" << JSON
{"cniVersion": "0.4.0", "name": "$node", "plugins": [
 {"type": "ptp", "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": "$DIR/$node/addresses", "ranges": [[{"subnet": "$(node_pods "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE every sandbox would die. The state is kept under the cluster's folder, so that down.sh finds all of it.
  put "$DIR/$node/containerd.toml" << TOML
version = 2
root = "$DIR/$node/containerd"
state = "$DIR/$node/state"
[grpc]
  address = "$(node_socket "$node")"
[plugins."io.containerd.internal.v1.opt"]
  path = "$DIR/$node/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "docker.io/library/pause:holdfast"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$DIR/$node/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
TOML
  : > "$DIR/$node/resolv.conf"
  # The second node is there to be taken down by tests: nothing else runs on it.
  [ "$node" = node1 ] || taints='[{key: holdfast-e2e/spare, effect: NoSchedule}]'
  put "$DIR/$node/kubelet.yaml" << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$node")
port: 10250
healthzBindAddress: 127.0.0.1
healthzPort: $((10248 + 100 * $(node_number "$node")))
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $DIR/pki/$node.crt
tlsPrivateKeyFile: $DIR/pki/$node.key
containerRuntimeEndpoint: unix://$(node_socket "$node")
cgroupDriver: cgroupfs
cgroupRoot: /$(node_cgroup "$node")
failCgroupV1: false
registerWithTaints: $taints
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
clusterDNS: [$DNS_ADDRESS]
clusterDomain: cluster.local
resolvConf: $DIR/$node/resolv.conf
podLogsDir: $DIR/$node/pod-logs
volumePluginDir: $DIR/$node/volume-plugins
evictionHard: {memory.available: 200Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
YAML
}

# --- network and cgroups: made again when they are missing -----------------------------------------------------------------------
make_network() {
  local node bridge
  [ -e "$DIR/ip_forward" ] || cat /proc/sys/net/ipv4/ip_forward > "$DIR/ip_forward"
  echo 1 > /proc/sys/net/ipv4/ip_forward
  for node in "${NODES[@]}"; do # a bridge without members holds the node's address; pods have a link each
    bridge=$(node_bridge "$node")
    [ -e "/sys/class/net/$bridge" ] || ip link add "$bridge" type bridge
    ip address replace "$(node_address "$node")/32" dev "$bridge"
    ip link set "$bridge" up
  done
  # What goes to a service never leaves the machine, also before kube-proxy has its rules.
  [ -e "/sys/class/net/$SERVICE_BRIDGE" ] || ip link add "$SERVICE_BRIDGE" type bridge
  ip link set "$SERVICE_BRIDGE" up
  ip route replace "$SERVICE_NETWORK" dev "$SERVICE_BRIDGE" src "$API_ADDRESS"
  iptables -w -C FORWARD -s "$POD_NETWORK" -j ACCEPT 2> /dev/null || iptables -w -I FORWARD -s "$POD_NETWORK" -j ACCEPT
  iptables -w -C FORWARD -d "$POD_NETWORK" -j ACCEPT 2> /dev/null || iptables -w -I FORWARD -d "$POD_NETWORK" -j ACCEPT
}

make_cgroups() {
  local root node file
  if [ "$(cgroup_version)" = 2 ]; then
    if ! delegate_controllers; then # processes in a container's own root cgroup are in the way
      mkdir -p /sys/fs/cgroup/init
      while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs 2> /dev/null || true; done < /sys/fs/cgroup/cgroup.procs
      delegate_controllers || say "could not delegate all of: $(cat /sys/fs/cgroup/cgroup.controllers)"
    fi
  fi
  for root in $(cgroup_roots); do
    for node in "${NODES[@]}"; do
      mkdir -p "$root/$(node_cgroup "$node")"
      for file in cpuset.cpus cpuset.mems; do
        if [ "$(cgroup_version)" = 1 ] && [ -e "$root/$file" ]; then cat "$root/$file" > "$root/$(node_cgroup "$node")/$file"; fi
      done
    done
  done
}
delegate_controllers() {
  local controller done=0
  for controller in $(< /sys/fs/cgroup/cgroup.controllers); do
    { echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control; } 2> /dev/null || done=1
  done
  return $done
}

apply_dns_service() {
  kubectl apply --server-side -f - << YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: $DNS_ADDRESS, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$API_ADDRESS]}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
YAML
}
