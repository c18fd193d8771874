"""Small estimators and data."""

from sklearn.datasets import make_classification

from cheaplip.sklearn import CLIPClassifier


def quick(**chosen):
    return CLIPClassifier(**{"epochs": 8, "hidden": (16,), **chosen})


def two_classes(n=200):
    x, y = make_classification(n, 5, n_informative=3, n_redundant=0, class_sep=2.0, flip_y=0.02, random_state=0)
    return x, y
