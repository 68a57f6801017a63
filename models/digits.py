#!/usr/bin/env python3
"""digits.py digits.csv.gz: writes digits_{train,test}_{images,labels}.npy beside itself: uint8 images [N,1,8,8] from 0 to 240, uint8 labels [N];
the first 1,437 samples train, the last 360 test. The input is the file that scikit-learn packages as sklearn/datasets/data/digits.csv.gz.

Pixels count 0 to 16 set bits of a 4x4 block; times 15 they fill a byte, so that division by 255 gives values up to 0.94."""
import os
import sys

import numpy as np

TRAIN = 1437


def main():
    rows = np.loadtxt(sys.argv[1], delimiter=",")
    here = os.path.dirname(os.path.abspath(__file__))
    images = (rows[:, :64] * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = rows[:, 64].astype(np.uint8)
    for part, span in (("train", slice(0, TRAIN)), ("test", slice(TRAIN, None))):
        np.save(os.path.join(here, f"digits_{part}_images.npy"), images[span])
        np.save(os.path.join(here, f"digits_{part}_labels.npy"), labels[span])


main()
