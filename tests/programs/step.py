"""A training step of a small network, its compilation switched off. Prints the peak."""

import torch

torch.compiler.set_stance("force_eager")


@torch.compile  # type: ignore[untyped-decorator]
def loss_of(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What is to become small."""
    loss: torch.Tensor = model(batch).square().mean()
    return loss


def main() -> None:
    """Forward, backward, and one step of AdamW."""
    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    loss_of(model, torch.ones(64, 1024, device="cuda")).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    print(torch.cuda.max_memory_allocated())


if __name__ == "__main__":
    main()
