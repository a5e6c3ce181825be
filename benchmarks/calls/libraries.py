"""The same network in NumPy and in other libraries, each as one would write it for speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import RATE, Array, Layers, Sizes, corrected_rate, first_layers, flat


def hidden_outputs(layers: Layers, x: Array) -> list[Array]:
    """What each layer reads."""
    inputs = [x]
    for W, b in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ W + b, 0))
    return inputs


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


class NumPy:
    def __init__(self, sizes: Sizes, dtype: str = "f4") -> None:
        self.layers: Layers = [(W.astype(dtype), b.astype(dtype)) for W, b in first_layers(sizes)]
        self.moments = [[(np.zeros_like(W), np.zeros_like(b)) for W, b in self.layers] for _ in range(2)]
        self.dtype, self.steps = dtype, 0

    def outputs(self, x: Array) -> Array:
        W, b = self.layers[-1]
        return softmax(hidden_outputs(self.layers, x.astype(self.dtype, copy=False))[-1] @ W + b)

    def step(self, x: Array, y: Array) -> float:
        self.steps += 1
        inputs = hidden_outputs(self.layers, x.astype(self.dtype, copy=False))
        delta = softmax(inputs[-1] @ self.layers[-1][0] + self.layers[-1][1])
        rows, rate = np.arange(len(y)), corrected_rate(self.steps)
        loss = -float(np.log(delta[rows, y]).mean())
        delta[rows, y] -= 1
        delta /= len(y)
        for index in range(len(self.layers) - 1, -1, -1):
            a, W = inputs[index], self.layers[index][0]
            gradients = a.T @ delta, delta.sum(axis=0)
            delta = (delta @ W.T) * (a > 0) if index else delta
            moments = (part[index] for part in self.moments)
            for p, g, m, v in zip(self.layers[index], gradients, *moments, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p -= rate * m / (np.sqrt(v) + 1e-8)
        return loss

    def parameters(self) -> Array:
        return flat(self.layers)


class ScikitLearn:
    def __init__(self, sizes: Sizes) -> None:
        from sklearn.neural_network import MLPClassifier

        if sizes[-1] == 2:
            raise NotImplementedError("for two classes it has one output, another network")
        classes = np.arange(sizes[-1])
        estimator = MLPClassifier(sizes[1:-1], alpha=0.0, learning_rate_init=RATE, random_state=0)
        # Made by a step, whose traces are removed
        estimator.partial_fit(np.zeros((1, sizes[0]), "f4"), classes[:1], classes=classes)
        for W, b, (own_W, own_b) in zip(estimator.coefs_, estimator.intercepts_, first_layers(sizes), strict=True):
            W[...], b[...] = own_W, own_b
        optimizer = estimator._optimizer
        optimizer.t = 0
        for slot in (*optimizer.ms, *optimizer.vs):
            slot[...] = 0
        self.estimator, self.outputs = estimator, estimator.predict_proba

    def step(self, x: Array, y: Array) -> float:
        return float(self.estimator.partial_fit(x, y).loss_)

    def parameters(self) -> Array:
        return flat(zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True))


class Torch:
    """Eager: a module, and the fused kind of Adam."""

    def __init__(self, sizes: Sizes) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, parts = torch, []
        for W, b in first_layers(sizes):
            linear = torch.nn.Linear(*W.shape)
            linear.weight.data, linear.bias.data = torch.from_numpy(W.T.copy()), torch.from_numpy(b)
            parts += [linear, torch.nn.ReLU()]
        self.module: Any = torch.nn.Sequential(*parts[:-1])
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=RATE, fused=True)

    def outputs(self, x: Array) -> Array:
        with self.torch.inference_mode():
            return np.asarray(self.module(self.torch.from_numpy(x)).softmax(1).numpy())

    def step(self, x: Array, y: Array) -> float:
        torch = self.torch
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.module(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        self.optimizer.step()
        return float(loss.item())

    def parameters(self) -> Array:
        return flat((part.weight.detach().numpy().T, part.bias.detach().numpy()) for part in self.module[::2])


class CompiledTorch(Torch):
    """torch.compile with its C++ wrapper: the outputs, and loss, gradient and Adam in one graph."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        torch, module = self.torch, self.module
        torch._dynamo.reset()  # else each call would look at the guards of what was compiled before
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters.values()]

        def batch_loss(parameters: Any, x: Any, y: Any) -> Any:
            return torch.nn.functional.cross_entropy(torch.func.functional_call(module, parameters, (x,)), y)

        loss_and_gradient = torch.func.grad_and_value(batch_loss)

        def step(x: Any, y: Any, rate: Any) -> Any:
            gradient, loss = loss_and_gradient(parameters, x, y)
            for (m, v), (name, p) in zip(moments, parameters.items(), strict=True):
                g = gradient[name]
                m.lerp_(g, 0.1)
                v.mul_(0.999).addcmul_(g, g, value=0.001)
                p.sub_(rate * m / (v.sqrt() + 1e-8))
            return loss

        def compiled(function: Any) -> Any:
            return torch.compile(function, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})

        self.compiled_outputs, self.compiled_step = compiled(lambda x: module(x).softmax(1)), compiled(step)
        self.steps = 0

    def outputs(self, x: Array) -> Array:
        with self.torch.no_grad():
            return np.asarray(self.compiled_outputs(self.torch.from_numpy(x)).numpy())

    def step(self, x: Array, y: Array) -> float:
        torch = self.torch
        self.steps += 1
        rate = torch.tensor(corrected_rate(self.steps))
        with torch.no_grad():
            return float(self.compiled_step(torch.from_numpy(x), torch.from_numpy(y), rate))


class OnnxRuntime:
    def __init__(self, sizes: Sizes) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        nodes, weights, name = [], [], "x"
        for index, (W, b) in enumerate(first_layers(sizes)):
            weights += [numpy_helper.from_array(W, f"W{index}"), numpy_helper.from_array(b, f"b{index}")]
            nodes.append(helper.make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
            kind, name = ("Relu", f"a{index}") if index < len(sizes) - 2 else ("Softmax", "y")
            nodes.append(helper.make_node(kind, [f"z{index}"], [name]))
        ends = (("x", sizes[0]), ("y", sizes[-1]))
        x, y = (helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, size]) for end, size in ends)
        graph = helper.make_graph(nodes, "network", [x], [y], weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def outputs(self, x: Array) -> Array:
        return np.asarray(self.session.run(None, {"x": x})[0])


class Jax:
    """Everything in a jit call, with the state donated."""

    def __init__(self, sizes: Sizes) -> None:
        import jax
        import jax.numpy as jnp

        def scores(layers: Any, x: Any) -> Any:
            for W, b in layers[:-1]:
                x = jnp.maximum(x @ W + b, 0)
            return x @ layers[-1][0] + layers[-1][1]

        def batch_loss(layers: Any, x: Any, y: Any) -> Any:
            return -jnp.take_along_axis(jax.nn.log_softmax(scores(layers, x)), y[:, None], axis=1).mean()

        def update(state: Any, x: Any, y: Any) -> Any:
            layers, m, v, t = state
            loss, g = jax.value_and_grad(batch_loss)(layers, x, y)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            rate = RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            layers = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), layers, m, v)
            return (layers, m, v, t + 1), loss

        layers = [tuple(map(jnp.asarray, layer)) for layer in first_layers(sizes)]
        zeros, more_zeros = (jax.tree.map(jnp.zeros_like, layers) for _ in range(2))
        self.state: Any = (layers, zeros, more_zeros, jnp.float32(1))
        self.update = jax.jit(update, donate_argnums=0)
        self.probabilities = jax.jit(lambda layers, x: jax.nn.softmax(scores(layers, x)))

    def outputs(self, x: Array) -> Array:
        return np.asarray(self.probabilities(self.state[0], x))

    def step(self, x: Array, y: Array) -> float:
        self.state, loss = self.update(self.state, x, y)
        return float(loss)

    def parameters(self) -> Array:
        return flat(self.state[0])
