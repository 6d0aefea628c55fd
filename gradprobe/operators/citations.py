"""BibTeX entries of operators, probes and selectors, by key."""

from gradprobe.operators.selector_citations import SELECTORS

BIBTEX = {
    "diffprune": r"""
@misc{diffprune,
  title = {Beyond Surrogate Gradients: Fully Differentiable Token Pruning for Vision-Language Models},
  author = {He, Landi and Yao, Mingde and Young, Shawn and Xu, Lijian},
  year = {2026},
}
""",
    "lapsum": r"""
@inproceedings{lapsum,
  title = {{LapSum} -- One Method to Differentiate Them All: Ranking, Sorting and Top-k Selection},
  author = {Struski, {\L}ukasz and Bednarczyk, Micha{\l} B. and Podolak, Igor T. and Tabor, Jacek},
  year = {2025},
  booktitle = {International Conference on Machine Learning},
  eprint = {2503.06242},
  archivePrefix = {arXiv},
}
""",
    "soft-topk": r"""
@inproceedings{soft-topk,
  title = {Differentiable Top-k with Optimal Transport},
  author = {Xie, Yujia and Dai, Hanjun and Chen, Minshuo and Dai, Bo and Zhao, Tuo and Zha, Hongyuan and Wei,
    Wei and Pfister, Tomas},
  year = {2020},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2002.06504},
  archivePrefix = {arXiv},
}
""",
    "sparse-topk": r"""
@inproceedings{sparse-topk,
  title = {Fast, Differentiable and Sparse Top-k: a Convex Analysis Perspective},
  author = {Sander, Michael E. and Puigcerver, Joan and Djolonga, Josip and Peyr{\'e}, Gabriel and Blondel,
    Mathieu},
  year = {2023},
  booktitle = {International Conference on Machine Learning},
  eprint = {2302.01425},
  archivePrefix = {arXiv},
}
""",
    "atp-llava": r"""
@inproceedings{atp-llava,
  title = {{ATP-LLaVA}: Adaptive Token Pruning for Large Vision Language Models},
  author = {Ye, Xubing and Gan, Yukang and Ge, Yixiao and Zhang, Xiao-Ping and Tang, Yansong},
  year = {2025},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2412.00447},
  archivePrefix = {arXiv},
}
""",
    "straight-through": r"""
@misc{straight-through,
  title = {Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation},
  author = {Bengio, Yoshua and L{\'e}onard, Nicholas and Courville, Aaron},
  year = {2013},
  eprint = {1308.3432},
  archivePrefix = {arXiv},
}
""",
    "gumbel-topk": r"""
@inproceedings{gumbel-topk,
  title = {Stochastic Beams and Where to Find Them: The {Gumbel}-Top-k Trick for Sampling Sequences Without
    Replacement},
  author = {Kool, Wouter and van Hoof, Herke and Welling, Max},
  year = {2019},
  booktitle = {International Conference on Machine Learning},
  eprint = {1903.06059},
  archivePrefix = {arXiv},
}
""",
    "gumbel-softmax": r"""
@inproceedings{gumbel-softmax,
  title = {Categorical Reparameterization with {Gumbel}-Softmax},
  author = {Jang, Eric and Gu, Shixiang and Poole, Ben},
  year = {2017},
  booktitle = {International Conference on Learning Representations},
  eprint = {1611.01144},
  archivePrefix = {arXiv},
}
""",
    "concrete": r"""
@inproceedings{concrete,
  title = {The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables},
  author = {Maddison, Chris J. and Mnih, Andriy and Teh, Yee Whye},
  year = {2017},
  booktitle = {International Conference on Learning Representations},
  eprint = {1611.00712},
  archivePrefix = {arXiv},
}
""",
    "dynamicvit": r"""
@inproceedings{dynamicvit,
  title = {{DynamicViT}: Efficient Vision Transformers with Dynamic Token Sparsification},
  author = {Rao, Yongming and Zhao, Wenliang and Liu, Benlin and Lu, Jiwen and Zhou, Jie and Hsieh, Cho-Jui},
  year = {2021},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2106.02034},
  archivePrefix = {arXiv},
}
""",
    "dynamic-llava": r"""
@inproceedings{dynamic-llava,
  title = {{Dynamic-LLaVA}: Efficient Multimodal Large Language Models via Dynamic Vision-language Context
    Sparsification},
  author = {Huang, Wenxuan and Zhai, Zijie and Shen, Yunhang and Cao, Shaosheng and Zhao, Fei and Xu,
    Xiangfeng and Ye, Zheyu and Lin, Shaohui},
  year = {2025},
  booktitle = {International Conference on Learning Representations},
  eprint = {2412.00876},
  archivePrefix = {arXiv},
}
""",
    "relaxed-subset": r"""
@inproceedings{relaxed-subset,
  title = {Reparameterizable Subset Sampling via Continuous Relaxations},
  author = {Xie, Sang Michael and Ermon, Stefano},
  year = {2019},
  booktitle = {International Joint Conference on Artificial Intelligence},
  eprint = {1901.10517},
  archivePrefix = {arXiv},
}
""",
    "softsort": r"""
@inproceedings{softsort,
  title = {{SoftSort}: A Continuous Relaxation for the argsort Operator},
  author = {Prillo, Sebastian and Eisenschlos, Julian},
  year = {2020},
  booktitle = {International Conference on Machine Learning},
  eprint = {2006.16038},
  archivePrefix = {arXiv},
}
""",
    "neuralsort": r"""
@inproceedings{neuralsort,
  title = {Stochastic Optimization of Sorting Networks via Continuous Relaxations},
  author = {Grover, Aditya and Wang, Eric and Zweig, Aaron and Ermon, Stefano},
  year = {2019},
  booktitle = {International Conference on Learning Representations},
  eprint = {1903.08850},
  archivePrefix = {arXiv},
}
""",
    "hard-concrete": r"""
@inproceedings{hard-concrete,
  title = {Learning Sparse Neural Networks through {$L_0$} Regularization},
  author = {Louizos, Christos and Welling, Max and Kingma, Diederik P.},
  year = {2018},
  booktitle = {International Conference on Learning Representations},
  eprint = {1712.01312},
  archivePrefix = {arXiv},
}
""",
    "perturbed": r"""
@inproceedings{perturbed,
  title = {Learning with Differentiable Perturbed Optimizers},
  author = {Berthet, Quentin and Blondel, Mathieu and Teboul, Olivier and Cuturi, Marco and Vert,
    Jean-Philippe and Bach, Francis},
  year = {2020},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2002.08676},
  archivePrefix = {arXiv},
}
""",
    "patch-selection": r"""
@inproceedings{patch-selection,
  title = {Differentiable Patch Selection for Image Recognition},
  author = {Cordonnier, Jean-Baptiste and Mahendran, Aravindh and Dosovitskiy, Alexey and Weissenborn, Dirk
    and Uszkoreit, Jakob and Unterthiner, Thomas},
  year = {2021},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2104.03059},
  archivePrefix = {arXiv},
}
""",
    "simple": r"""
@inproceedings{simple,
  title = {{SIMPLE}: A Gradient Estimator for k-Subset Sampling},
  author = {Ahmed, Kareem and Zeng, Zhe and Niepert, Mathias and Van den Broeck, Guy},
  year = {2023},
  booktitle = {International Conference on Learning Representations},
  eprint = {2210.01941},
  archivePrefix = {arXiv},
}
""",
    "imle": r"""
@inproceedings{imle,
  title = {Implicit {MLE}: Backpropagating Through Discrete Exponential Family Distributions},
  author = {Niepert, Mathias and Minervini, Pasquale and Franceschi, Luca},
  year = {2021},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2106.01798},
  archivePrefix = {arXiv},
}
""",
    "aimle": r"""
@inproceedings{aimle,
  title = {Adaptive Perturbation-Based Gradient Estimation for Discrete Latent Variable Models},
  author = {Minervini, Pasquale and Franceschi, Luca and Niepert, Mathias},
  year = {2023},
  booktitle = {AAAI Conference on Artificial Intelligence},
  eprint = {2209.04862},
  archivePrefix = {arXiv},
}
""",
    "reinmax": r"""
@inproceedings{reinmax,
  title = {Bridging Discrete and Backpropagation: Straight-Through and Beyond},
  author = {Liu, Liyuan and Dong, Chengyu and Liu, Xiaodong and Yu, Bin and Gao, Jianfeng},
  year = {2023},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2304.08612},
  archivePrefix = {arXiv},
}
""",
    "decoupled-ste": r"""
@misc{decoupled-ste,
  title = {Improving Discrete Optimisation Via Decoupled Straight-Through {Gumbel}-Softmax},
  author = {Shah, Rushi and Yan, Mingyuan and Mozer, Michael Curtis and Liu, Dianbo},
  year = {2024},
  eprint = {2410.13331},
  archivePrefix = {arXiv},
}
""",
    "shiva": r"""
@misc{shiva,
  title = {{Shiva-DiT}: Residual-Based Differentiable Top-k Selection for Efficient Diffusion Transformers},
  author = {Zhang, Jiaji and Zhao, Hailiang and Zhu, Guoxuan and Sun, Ruichao and Wu, Jiaju and Zhao, Xinkui
    and Tang, Hanlin and Lu, Weiyi and Liu, Kan and Lan, Tao and Qu, Lin and Deng, Shuiguang},
  year = {2026},
  eprint = {2602.05605},
  archivePrefix = {arXiv},
}
""",
    "leave-one-out": r"""
@inproceedings{leave-one-out,
  title = {Buy 4 {REINFORCE} Samples, Get a Baseline for Free!},
  author = {Kool, Wouter and van Hoof, Herke and Welling, Max},
  year = {2019},
  booktitle = {ICLR Workshop on Deep Reinforcement Learning Meets Structured Prediction},
}
""",
    "li2018landscape": r"""
@inproceedings{li2018landscape,
  title = {Visualizing the Loss Landscape of Neural Nets},
  author = {Li, Hao and Xu, Zheng and Taylor, Gavin and Studer, Christoph and Goldstein, Tom},
  year = {2018},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {1712.09913},
  archivePrefix = {arXiv},
}
""",
    "salimans2017evolution": r"""
@misc{salimans2017evolution,
  title = {Evolution Strategies as a Scalable Alternative to Reinforcement Learning},
  author = {Salimans, Tim and Ho, Jonathan and Chen, Xi and Sidor, Szymon and Sutskever, Ilya},
  year = {2017},
  eprint = {1703.03864},
  archivePrefix = {arXiv},
}
""",
    "touvron2021deit": r"""
@inproceedings{touvron2021deit,
  title = {Training Data-Efficient Image Transformers and Distillation through Attention},
  author = {Touvron, Hugo and Cord, Matthieu and Douze, Matthijs and Massa, Francisco and Sablayrolles,
    Alexandre and J{\'e}gou, Herv{\'e}},
  year = {2021},
  booktitle = {International Conference on Machine Learning},
  eprint = {2012.12877},
  archivePrefix = {arXiv},
}
""",
    "pedregosa2011scikit": r"""
@article{pedregosa2011scikit,
  title = {Scikit-learn: Machine Learning in {Python}},
  author = {Pedregosa, Fabian and others},
  year = {2011},
  journal = {Journal of Machine Learning Research},
}
""",
    **SELECTORS,
}
