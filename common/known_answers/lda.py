"""Makes lda.json: scikit-learn's answers to the check of whitened prototypes.

    pip install numpy scikit-learn && python lda.py > lda.json

Class-balanced data of one modality. For each rho, LinearDiscriminantAnalysis(solver="lsqr", shrinkage=rho/(1+rho)).

Why that shrinkage. scikit-learn's covariance is the mean over classes of (1-s) S_c + s tr(S_c)/D I, with S_c divided by
n_c; for balanced classes that is (1-s) (W + s/(1-s) tr(W)/D I), W = T/n. Ours is n/(n-g) (W + rho tr(W)/D I). So
s/(1-s) = rho makes them proportional, ours = k theirs with k = n/(n-g) (1+rho), and scores, which go with the inverse, are
theirs = k ours + a constant that all classes share (equal priors). The arg-max is the same.
"""

import json

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

rng = np.random.default_rng(7)
classes, width, each = 4, 6, 12
mix = rng.normal(size=(width, width))
means = rng.normal(size=(classes, width)) * 1.2
labels = np.repeat(np.arange(classes), each)
train = (means[labels] + rng.normal(size=(len(labels), width)) @ mix).round(4)
truth = rng.integers(0, classes, size=60)
test = (means[truth] + rng.normal(size=(60, width)) @ mix).round(4)

runs = []
for rho in [0.0, 0.05, 0.1, 0.5, 1.0]:
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=rho / (1 + rho))
    lda.fit(train, labels)
    scores = lda.decision_function(test)
    runs.append({"rho": rho, "answers": lda.predict(test).tolist(), "scores": scores[:10].round(9).tolist()})

print(json.dumps({
    "classes": classes, "width": width,
    "train": train.ravel().tolist(), "labels": labels.tolist(), "test": test.ravel().tolist(), "runs": runs,
}))
