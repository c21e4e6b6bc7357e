"""The public names of hsm_export and where each lives: the one list, read by type checkers and by `__init__.py`."""

from hsm_models.training import train as train
from hsm_operators import Attribute as Attribute
from hsm_operators import Cost as Cost
from hsm_operators import Dimension as Dimension
from hsm_operators import Operator as Operator
from hsm_operators import OperatorError as OperatorError
from hsm_operators import Port as Port
from hsm_operators import Routing as Routing
from hsm_operators import RowRange as RowRange
from hsm_operators import Rule as Rule
from hsm_operators import State as State
from hsm_operators.definition import operator as operator
from hsm_operators.definition import operator_for as operator_for
from hsm_operators.definition import register as register
from hsm_operators.discovery import load as load_operators  # noqa: F401

from .benchmarking import bench as bench
from .building import build as build
from .bundling import bundle as bundle
from .bundling import open_bundle as open_bundle
from .bundling import verify_bundle as verify_bundle
from .bundling.triton import write_repository as write_repository
from .decoding.generator import Generator as Generator
from .decoding.generator import generate as generate
from .decoding.perplexity import perplexity as perplexity
from .decoding.session import DecodeSession as DecodeSession
from .demonstration import demo as demo
from .diagnosis import doctor as doctor
from .diffing import DiffOptions as DiffOptions
from .diffing import diff as diff
from .diffing import diff_files as diff_files
from .diffing import plan_precision as plan_precision
from .exporting import export as export
from .formats.build_options import BuildOptions as BuildOptions
from .importing import import_checkpoint as import_checkpoint
from .inspection import inspect as inspect
from .kits import accept_kit as accept_kit
from .kits import write_kit as write_kit
from .native import cmake_prefix_path as cmake_prefix_path
from .native import custom_ops_path as custom_ops_path
from .native import tensorrt_plugin_path as tensorrt_plugin_path
from .operators.building import build_operators as build_operators
from .quantisation import quantize as quantize
from .runtimes import register_runtime as register_runtime
from .runtimes import runner as runner
from .runtimes.fused_session import session as session
from .runtimes.runtime import Runtime as Runtime
from .torch_model.explicit_state import ExplicitState as ExplicitState
from .validation import validate as validate

__version__: str
