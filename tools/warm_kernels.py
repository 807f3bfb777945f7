"""Kernels that have TensorFlow and Keras imported when they begin: forks of one process that imported them once.

    python warm_kernels.py serve SOCKET                         that process; it ends when its standard input closes
    python warm_kernels.py launch SOCKET CONNECTION_FILE ...    what Jupyter starts in a kernel's place

Ninety notebooks that each import them anew spend most of their time there. Nothing of TensorFlow runs before the fork.
"""
import gc
import json
import os
import select
import signal
import socket
import sys
import threading


def serve(path: str) -> None:
    import ipykernel.kernelapp  # noqa: F401
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
    gc.collect()
    gc.freeze()  # no fork looks at these objects again when it collects
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that ended are nobody's to wait for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                become_kernel(link)
            link.close()


def become_kernel(link: socket.socket) -> None:
    """Answer with the process id, take over what the launcher was given, and run."""
    job = json.loads(link.makefile().readline())
    os.setsid()
    with open(os.devnull, "r+") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)  # how to connect to it, which nobody does
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    link.sendall(f"{os.getpid()}\n".encode())
    threading.Thread(target=end_with, args=(link,), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance
    try:
        launch_new_instance(argv=job["arguments"])
    finally:
        os._exit(0)


def end_with(link: socket.socket) -> None:
    """A launcher that was killed takes its kernel along."""
    link.recv(1)
    os._exit(1)


def launch(path: str, connection: str, *options: str) -> None:
    """Ask for a fork, hand signals on to it, and stay as long as it does."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        job = dict(arguments=["-f", connection, *options], folder=os.getcwd(), environment=dict(os.environ))
        link.sendall(f"{json.dumps(job)}\n".encode())
        kernel = int(link.makefile().readline())
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda number, frame: os.kill(kernel, number))
        link.recv(1)


if __name__ == "__main__":
    {"serve": serve, "launch": launch}[sys.argv[1]](*sys.argv[2:])
