"""Fits and searches on a GPU: bench_fit.py and bench_search.py on one device, in one command.

python benchmarks/gpu.py --size small
"""

import argparse

import bench_fit
import bench_search
import torch


def main(size="small", device="cuda", peer_share=0.05):
    """Run both benchmarks on the device, and return the results of both."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(f"torch finds no CUDA device, expected one for --device {device}. Name another device.")
    print(torch.cuda.get_device_name(device) if device.startswith("cuda") else device)
    return bench_fit.main(size, device=device), bench_search.main(size, peer_share=peer_share, device=device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=bench_search.SIZES, default="small")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peer-share", type=float, default=0.05, help="share of the candidates that GridSearchCV runs")
    main(**vars(parser.parse_args()))
