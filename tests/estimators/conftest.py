"""One classifier that is trained to the end."""

import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cheaplip.sklearn import CLIPClassifier


@pytest.fixture(scope="session")
def digits():
    x, y = load_digits(return_X_y=True)
    return train_test_split(x / 16, y, test_size=500, random_state=0)  # x, x_test, y, y_test


@pytest.fixture(scope="session")
def classifier(digits):
    x, _, y, _ = digits
    return CLIPClassifier(target=0.96, epochs=60).fit(x, y)
