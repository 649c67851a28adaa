#!/bin/sh
# Simulate two hosts on this machine, connected by a network of limited bandwidth. Requires Linux and root.
#
#     sudo benchmarks/two_hosts.sh 1gbit 'python benchmarks/ranks.py small --ranks 2 --mpiexec "$MPIEXEC"'
#
# The hosts are the network namespaces a and b, connected by a veth pair limited to the rate RATE (first argument). The command
# (second argument) runs on host a. "$MPIEXEC" starts ranks on both hosts, which communicate over TCP.
set -eu
rate=$1 command=$2
work=$(mktemp -d)
for host in a b; do ip netns add minigpt-$host; done
trap 'for host in a b; do ip netns del minigpt-$host; done; rm -rf "$work"' EXIT
ip link add minigpt-va netns minigpt-a type veth peer name minigpt-vb netns minigpt-b
number=1
for host in a b; do
  in="ip netns exec minigpt-$host"
  $in ip addr add 10.99.0.$number/24 dev minigpt-v$host
  $in ip link set lo up
  $in ip link set minigpt-v$host up
  $in tc qdisc add dev minigpt-v$host root tbf rate "$rate" burst 256kb latency 20ms
  echo "10.99.0.$number slots=1" >>"$work/hosts"
  number=$((number + 1))
done
# mpiexec calls this script in place of ssh: agent HOST COMMAND ...
cat >"$work/agent" <<'AGENT'
#!/bin/sh
case $1 in 10.99.0.1) host=a ;; *) host=b ;; esac
shift
exec ip netns exec minigpt-$host unshare --uts sh -c "hostname minigpt-$host; $*"
AGENT
chmod +x "$work/agent"
export MPIEXEC="mpiexec --hostfile $work/hosts --prtemca plm_ssh_agent $work/agent --mca pml ob1 --mca btl tcp,self
  --mca btl_tcp_if_include 10.99.0.0/24 --bind-to none"
ip netns exec minigpt-a unshare --uts sh -c "hostname minigpt-a; $command"
