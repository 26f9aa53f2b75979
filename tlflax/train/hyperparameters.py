"""Hyperparameters for TensorBoard's HParams page.

tensorboardX has ``add_hparams``, which makes a further run for every call; here the summaries go
into the stage's own directory, so that a row of the table is a curve of the plots.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tlflax.policy.stage import Stage

if TYPE_CHECKING:
    from tlflax.train.loop import Job

_PLUGIN = "hparams"


def hyperparameters(job: "Job", stage: Stage) -> dict[str, str | bool | float]:
    """What a stage was trained with: every field of it, and what the run adds."""
    a = job.model.architecture
    network = (
        "backbone", "endpoint", "image_size", "head", "hidden", "dropout", "activation", "output",
    )  # fmt: skip
    found = {name: getattr(a, name) for name in network}
    # In values and not by its name: "auto" means another one with every network.
    found["preprocessing"] = job.model.spec.contract.pixels()
    found |= {f.name: getattr(stage, f.name) for f in dataclasses.fields(stage)}
    found["stage"] = found.pop("name")
    found |= {"batch_size": job.batch_size, "seed": job.seed, "precision": job.model.precision}
    found |= job.origins
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> str | bool | float:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    if dataclasses.is_dataclass(value):
        texts = {k: v if isinstance(v, int) else _plain(v) for k, v in vars(value).items() if v}
        return ", ".join(f"{k}={v}" for k, v in texts.items()) or "none"
    if isinstance(value, tuple | list):
        # Rules write themselves; a target is ("val_accuracy", ">=", 0.98).
        return ", ".join(" ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def summaries(values: Mapping[str, str | bool | float], metrics: Iterable[str]) -> list[Any]:
    """The HParams plugin's summaries for one run directory of TensorBoard.

    Args:
      values: hyperparameters.
      metrics: tags of scalars in the same directory that the table shows, by their last value.
    """
    api, plugin, _ = _messages()
    kinds = {str: "STRING", bool: "BOOL", float: "FLOAT64"}
    infos = [
        api.HParamInfo(name=k, type=api.DataType.Value(f"DATA_TYPE_{kinds[type(v)]}"))
        for k, v in values.items()
    ]
    shown = [api.MetricInfo(name=api.MetricName(tag=tag)) for tag in metrics]
    start = plugin.SessionStartInfo()
    for name, value in values.items():
        field = {str: "string_value", bool: "bool_value", float: "number_value"}[type(value)]
        setattr(start.hparams[name], field, value)
    experiment = api.Experiment(hparam_infos=infos, metric_infos=shown)
    return [
        _summary("_hparams_/experiment", experiment=experiment),
        _summary("_hparams_/session_start_info", session_start_info=start),
    ]


def ended() -> Any:
    """The summary that marks a session as finished."""
    api, plugin, _ = _messages()
    end = plugin.SessionEndInfo(status=api.Status.Value("STATUS_SUCCESS"))
    return _summary("_hparams_/session_end_info", session_end_info=end)


def _summary(tag: str, **content: Any) -> Any:
    _, plugin, summary = _messages()
    data = plugin.HParamsPluginData(version=0, **content).SerializeToString()
    about = summary.SummaryMetadata.PluginData(plugin_name=_PLUGIN, content=data)
    value = summary.Summary.Value(tag=tag, metadata=summary.SummaryMetadata(plugin_data=about))
    return summary.Summary(value=[value])


def _messages() -> tuple[Any, Any, Any]:
    """The modules of the plugin's messages, whose names exist at run time only."""
    from tensorboardX.proto import api_pb2, plugin_hparams_pb2, summary_pb2

    return api_pb2, plugin_hparams_pb2, summary_pb2
