import time
from test_rotation import *  # noqa
from test_rotation import CERTIFICATES, PASSWORDS, ansible_playbook, clients, started, unchanged, check


def step(*arguments):
    begun = time.time()
    done = ansible_playbook(*arguments)
    print(arguments, done.returncode, f"{time.time()-begun:.0f} s", flush=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_quick(lab):
    before = started(lab)
    with clients(lab, logins=False):
        for name in ("begin", "switch", "finish"):
            step(CERTIFICATES, "--extra-vars", f"rotate_certificates_ca={name}")
        step(PASSWORDS, "--tags", "postgresql")
        step(PASSWORDS, "--tags", "postgresql", "--extra-vars", "rotate_passwords_finish=true")
    print(before == started(lab))
    unchanged()
    check()
