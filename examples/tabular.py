"""Tabular data in scikit-learn: a pipeline, a search over its options, calibrated probabilities and certified radii."""

import sys

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cheaplip.sklearn import CLIPClassifier

EPOCHS = 30

x, y = load_breast_cancer(return_X_y=True)
x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=0)

pipeline = make_pipeline(StandardScaler(), CLIPClassifier(epochs=EPOCHS, activation="abs"))
search = GridSearchCV(pipeline, {"clipclassifier__options__certify": [0.0, 1.0], "clipclassifier__lr": [0.02]}, cv=3)
search.fit(x, y)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for certify in (0.0, 1.0):
    model = pipeline.set_params(clipclassifier__options={"certify": certify}, clipclassifier__lr=0.02).fit(x, y)
    radius = model[-1].certified_radius(model[0].transform(x_test)) * (model.predict(x_test) == y_test)
    bracket = model[-1].lipschitz_bracket_
    score = model.score(x_test, y_test)
    print(f"certify {certify}: test accuracy {score:.3f}, {bracket.lower:.2f} <= Lip(f) <= {bracket.upper:.2f}")
    print(f"  certified at 0.5 standard deviations: {(radius > 0.5).mean():.3f}")
    axes.plot(sorted(radius, reverse=True), [i / len(radius) for i in range(len(radius))], label=f"certify={certify:g}")
print(f"best in cross-validation: {search.best_params_}, {search.best_score_:.3f}")
axes.set(xlabel="radius, in standard deviations", ylabel="certified accuracy")
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
