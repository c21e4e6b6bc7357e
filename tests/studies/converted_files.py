"""The study of classical models: files that the converters of scikit-learn and XGBoost write, compared layer by layer.

    python -m tests.studies.converted_files [--out FILE] [--until SECONDS]

The converters are installed into an environment of their own. The models are healthy: nothing may be refused, left
unjudged or accused. The last line is a JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.studies.study import ALARM, LAYERS, PASSED, Record, arguments, compared, counted, run

PACKAGES = ("skl2onnx", "onnxmltools", "scikit-learn", "xgboost-cpu", "packaging")
RUNTIMES = ("ort", "ort:level=0")
FOLDER = Path("build/studies/converted")
# What makes the files, in that environment: estimators by expression, fitted to scikit-learn's irises.
MAKE = """
    import sys, warnings
    from pathlib import Path
    import numpy as np
    from sklearn.datasets import load_iris
    from sklearn.calibration import *; from sklearn.cluster import *; from sklearn.decomposition import *
    from sklearn.discriminant_analysis import *; from sklearn.ensemble import *; from sklearn.feature_selection import *
    from sklearn.gaussian_process import *; from sklearn.impute import *; from sklearn.linear_model import *
    from sklearn.mixture import *; from sklearn.multiclass import *; from sklearn.naive_bayes import *
    from sklearn.neighbors import *; from sklearn.neural_network import *; from sklearn.pipeline import *
    from sklearn.preprocessing import *; from sklearn.svm import *; from sklearn.tree import *
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats
    from xgboost import XGBClassifier, XGBRegressor

    warnings.filterwarnings("ignore")
    x, y = load_iris(return_X_y=True)
    x, versions = x.astype(np.float32), {"": 18, "ai.onnx.ml": 3}
    for name in sys.argv[2:]:
        path = Path(sys.argv[1]) / f"{name.translate(str.maketrans('', '', '()=,. '))[:60]}.onnx"
        if not path.exists():
            np.random.seed(0)
            model = eval(name).fit(x, y)
            if name.startswith("XGB"):
                made = convert_xgboost(model, initial_types=[("X", Floats([None, 4]))], target_opset=15)
            else:
                made = to_onnx(model, x[:1], target_opset=versions)
            path.write_bytes(made.SerializeToString())
"""
_AFTER = "LogisticRegression(max_iter=500)"
ESTIMATORS = (
    "AdaBoostClassifier(n_estimators=5)", "BaggingClassifier(n_estimators=5)", "BayesianRidge()",
    f"CalibratedClassifierCV({_AFTER}, cv=2)", "ExtraTreesRegressor(10)", "GaussianMixture(2)", "GaussianNB()",
    "GaussianProcessRegressor()", "GradientBoostingClassifier(n_estimators=10)", "GradientBoostingRegressor()",
    "IsolationForest(n_estimators=10)", "KMeans(3, n_init=2)", "KNeighborsClassifier(3)", "KNeighborsRegressor(3)",
    "KernelPCA(2, kernel='rbf')", "LinearDiscriminantAnalysis()", "LinearSVC()", "LocalOutlierFactor(novelty=True)",
    _AFTER, "MLPClassifier(max_iter=50)", "NuSVC(probability=True)", "OneClassSVM()", f"OneVsRestClassifier({_AFTER})",
    "Perceptron()", "PoissonRegressor()", "QuadraticDiscriminantAnalysis()", "RandomForestClassifier(20)", "Ridge()",
    "SGDClassifier()", "SVC()", "SVC(probability=True)", "SVR()", f"StackingClassifier([('a', {_AFTER})])",
    *(
        f"make_pipeline({step}, {_AFTER})"
        for step in (
            "Binarizer(threshold=3.0)", "KNNImputer()", "MinMaxScaler(), Normalizer()", "PCA(2)",
            "PolynomialFeatures(2)", "PowerTransformer()", "QuantileTransformer(n_quantiles=20)", "RobustScaler()",
            "SelectKBest(k=2)", "SimpleImputer(), StandardScaler()", "TruncatedSVD(2)",
        )
    ),
    "XGBClassifier(n_estimators=10)", "XGBRegressor(n_estimators=10)",
)  # fmt: skip


def files(folder: Path) -> list[tuple[str, Path]]:
    """Have the converters write what is not there yet; return the files with names."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder.with_name("converters") / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True, timeout=1800)
    subprocess.run([str(python), "-c", textwrap.dedent(MAKE), str(folder), *ESTIMATORS], check=True, timeout=1800)
    return [(path.stem, path) for path in sorted(folder.glob("*.onnx"))]


def main() -> int:
    """Run the study and print what came of it."""
    options = arguments(__doc__, "converted_files.jsonl")

    def one(path: Path) -> Callable[[], Record]:
        return lambda: compared(path, RUNTIMES, options=LAYERS)

    cases = [(name, one(path)) for name, path in files(FOLDER)]
    records = run(options.out, cases, options.until)
    bad = [record for record in records if record["end"] != PASSED]
    alarms = sum(record["end"] == ALARM for record in bad)
    print(json.dumps(counted(records, alarms=alarms, wrong=len(bad), of=len(cases))))
    return 1 if bad or len(records) < len(ESTIMATORS) else 0


if __name__ == "__main__":
    sys.exit(main())
