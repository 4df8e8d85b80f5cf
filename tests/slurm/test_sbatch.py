import pytest

from stvit_video.errors import UserError
from stvit_video.slurm.sbatch import check_gres_gpus, read_sbatch_options, read_srun_options


def test_options_with_and_without_a_value():
    texts = ["reservation=a b", "exclusive", "--comment=x=y", "mem-per-cpu=2G"]
    assert read_sbatch_options(texts) == {
        **{"reservation": "a b", "exclusive": True},
        **{"comment": "x=y", "mem-per-cpu": "2G"},
    }
    assert read_srun_options(["mpi=none", "--overlap"]) == ("--mpi=none", "--overlap")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *(
            (text, "takes NAME=VALUE")
            for text in ("", "=x", "N4", "-N4", "comment=", "a b", "a\nb")
        ),
        ("nodes=2", "cannot set nodes, .*: use --nodes"),
        ("--time=5", "cannot set time, .*: use --time"),
        ("signal=USR1@60", "follows from --time"),
        ("no-requeue", "use --max-requeues 0"),
        ("requeue", "--max-requeues"),
        ("output=/dev/null", "--job-dir"),
        # SLURM would read it as --exclude.
        ("exclud=n2", "cannot set exclud, because launch.py sets exclude itself: use --exclude"),
        ("gpus-per-node=a100:8", "--gpus-per-node, with --sbatch gres=gpu:TYPE:N"),
        ("export=NONE", "export your variables before you launch"),
    ],
)
def test_rejected_options(text, sentence):
    with pytest.raises(UserError, match=f"^--sbatch .*{sentence}") as refused:
        read_sbatch_options([text])
    assert "\n" not in str(refused.value)


def test_rejected_srun_options():
    for text in ("kill-on-bad-exit=0", "ntasks=4", "cpus-per-task=1"):
        with pytest.raises(UserError, match=r"^--srun-arg cannot set"):
            read_srun_options([text])


def test_an_option_is_given_once():
    with pytest.raises(UserError, match="--sbatch sets comment twice"):
        read_sbatch_options(["comment=a", "comment=b"])


def test_typed_gpus_must_match_the_ranks():
    check_gres_gpus({"gres": "gpu:a100:8,nvme:1"}, 8)
    check_gres_gpus({"gres": "nvme:1"}, 8)
    with pytest.raises(UserError, match=r"--sbatch gres=gpu:a100:4 must .* are 4 and 8"):
        check_gres_gpus({"gres": "gpu:a100:4"}, 8)
