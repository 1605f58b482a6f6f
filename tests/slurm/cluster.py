"""A real SLURM on this machine: its own munged, slurmctld and three slurmd on loopback, in a folder of its own.

`python tests/slurm/cluster.py COMMAND …` runs a command with such a cluster and stops it afterwards.
Debian packages: slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("srun", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = {"cpu0": "", "gpu0": "Gres=gpu:a100:8", "gpu1": "Gres=gpu:a100:8"}
TEMPLATE = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.%n.log
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill,NoShared
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={at}/jobs.txt
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0,defer_batch=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
DefMemPerCPU=256
MinJobAge=300
JobRequeue=1
KillWait=2
SlurmdTimeout=10
SlurmctldTimeout=10
ReturnToService=2
CompleteWait=0
PartitionName=cpu Nodes=cpu0 Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
PartitionName=gpu Nodes=gpu0,gpu1 MaxTime=INFINITE DefaultTime=10 State=UP
"""
NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=64000 {gres}\n"


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in (*DAEMONS, *CLIENTS) if not shutil.which(name, path=search_path())]


def search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """A context manager; `environment` is what a user of the cluster has."""

    def __enter__(self) -> "Cluster":
        self.at = Path(tempfile.mkdtemp(prefix="slurm."))  # short: a socket's path has 107 characters at most
        try:
            self._configure()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _configure(self) -> None:
        for folder in ("bin", "dev", "state", "nocgroup", *(f"spool/{name}" for name in NODES)):
            (self.at / folder).mkdir(parents=True)
        ports = free_ports(1 + len(NODES))
        nodes = [
            NODE.format(name=name, port=port, gres=gres)
            for (name, gres), port in zip(NODES.items(), ports[1:], strict=True)
        ]
        filled = TEMPLATE.format(at=self.at, user=getpass.getuser(), ports=ports).split("PartitionName", 1)
        (self.at / "slurm.conf").write_text(f"{filled[0]}{''.join(nodes)}PartitionName{filled[1]}")
        for gpu in range(8):
            (self.at / f"dev/gpu{gpu}").symlink_to("/dev/null")
        devices = f"Name=gpu Type=a100 File={self.at}/dev/gpu[0-7]\n"
        (self.at / "gres.conf").write_text("".join(f"NodeName={n} {devices}" for n, gres in NODES.items() if gres))
        cgroup = f"CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint={self.at}/nocgroup\n"
        (self.at / "cgroup.conf").write_text(cgroup)
        (self.at / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.at / "munge.key").chmod(0o600)
        for name in CLIENTS:  # jobs lose SLURM_CONF before their inner srun
            wrapper, program = self.at / "bin" / name, shutil.which(name, path=search_path())
            wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.at}/slurm.conf exec {program} "$@"\n')
            wrapper.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{self.at}/bin:{search_path()}"}

    def _start(self) -> None:
        at, conf = self.at, ["-f", str(self.at / "slurm.conf")]
        options = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        munge = [f"--{name}={at}/{file}" for name, file in (options | {"seed-file": "munge.seed"}).items()]
        self._daemon("munged", "--force", *munge)
        self._daemon("slurmctld", *conf)
        for name in NODES:
            self._daemon("slurmd", *conf, "-N", name)
        self.wait(lambda: self.idle() == len(NODES), 120)

    def _daemon(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=search_path())
        subprocess.run([str(program), *arguments], check=True, timeout=60, stdout=subprocess.DEVNULL)

    def idle(self) -> int:
        """How many nodes take jobs."""
        return len(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())

    def run(self, *command: str) -> str:
        """What a client prints; it gets a minute."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def running(self, rule: str = "") -> list[tuple[str, str]]:
        """(job, node) of each running job of a rule."""
        lines = self.run("squeue", "-h", "-t", "R", "-o", "%i|%N|%k").splitlines()
        return [tuple(line.split("|")[:2]) for line in lines if rule in line.split("|")[2]]

    @staticmethod
    def wait(condition, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s in vain")
            time.sleep(0.3)

    def __exit__(self, *_: object) -> None:
        """Cancel all jobs, then stop each daemon by its own pid file, whatever state the cluster is in."""
        with contextlib.suppress(TimeoutError, subprocess.TimeoutExpired):
            if (self.at / "slurmctld.pid").exists():
                self.run("scancel", "--user", getpass.getuser())
                self.wait(lambda: not self.run("squeue", "-h"), 60)
        for process in psutil.process_iter():  # of jobs on a lost node, which nobody else ends
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == str(self.at / "slurm.conf"):
                    process.kill()
        for name in ("slurmctld", *(f"slurmd.{node}" for node in NODES), "munged"):
            pid_file = self.at / f"{name}.pid"
            with contextlib.suppress(TimeoutError, FileNotFoundError, ProcessLookupError):
                os.kill(int(pid_file.read_text()), signal.SIGTERM)
                self.wait(lambda file=pid_file: not file.exists(), 20)
        shutil.rmtree(self.at, ignore_errors=True)


if __name__ == "__main__":
    if absent := missing():
        sys.exit(f"not installed: {', '.join(absent)} (Debian: {__doc__.splitlines()[-1].split(': ')[1]})")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the cluster too
    with Cluster() as cluster:
        sys.exit(subprocess.run(sys.argv[1:], env=cluster.environment).returncode)
