"""From a folder of raw logs to a model that can be served.

    python examples/train_on_own_logs.py --input_dir raw --output_dir work

The folder has impressions, interactions and, if you have them, users and items as JSON lines, CSV, Parquet
or Avro, and `features.json`, the declaration (docs/data.md). `examples/custom_features.py` writes one.
"""

from __future__ import annotations

import argparse
import pathlib

import psad_tf as psad
from psad_tf.config import DataConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--input_dir", default="raw", help="folder of raw logs")
    parser.add_argument("--output_dir", default="work", help="folder for lists, run and SavedModel")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training lists")
    arguments = parser.parse_args()
    raw, work = pathlib.Path(arguments.input_dir), pathlib.Path(arguments.output_dir)
    lists, run, serving = work / "lists", work / "run", work / "serving"

    # Histories as of each request, labels, split by time; what could not be used is in lists/dead_letters.
    manifest = psad.preprocess(raw, lists, psad.load_declaration(raw / "features.json"))
    print("lists:", manifest["lists"])

    config = psad.TrainConfig(data=DataConfig(batch_size=32), epochs=arguments.epochs, jit_compile=False)
    psad.train(lists, run, config)

    # Test lists were in no choice so far; `initial` is the order in which the candidates came.
    for model, metrics in psad.evaluate_run(run, lists, "test").means().items():
        print(f"{model:8} NDCG@10 {metrics['ndcg@10']:.4f}")

    print("SavedModel:", psad.export_saved_model(run, serving, lists_dir=lists))


if __name__ == "__main__":
    main()
