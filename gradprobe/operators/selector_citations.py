"""BibTeX entries of selectors, by key."""

SELECTORS = {
    "divprune": r"""
@inproceedings{divprune,
  title = {{DivPrune}: Diversity-Based Visual Token Pruning for Large Multimodal Models},
  author = {Alvar, Saeed Ranjbar and Singh, Gursimran and Akbari, Mohammad and Zhang, Yong},
  year = {2025},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2503.02175},
  archivePrefix = {arXiv},
}
""",
    "zoo-prune": r"""
@inproceedings{zoo-prune,
  title = {{ZOO-Prune}: Training-Free Token Pruning via Zeroth-Order Gradient Estimation in Vision-Language
    Models},
  author = {Kim, Youngeun and Zhang, Youjia and Liu, Huiling and Jung, Aecheon and Lee, Sunwoo and Hong,
    Sungeun},
  year = {2026},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2509.24837},
  archivePrefix = {arXiv},
}
""",
    "visionzip": r"""
@inproceedings{visionzip,
  title = {{VisionZip}: Longer is Better but Not Necessary in Vision Language Models},
  author = {Yang, Senqiao and Chen, Yukang and Tian, Zhuotao and Wang, Chengyao and Li, Jingyao and Yu, Bei and
    Jia, Jiaya},
  year = {2025},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2412.04467},
  archivePrefix = {arXiv},
}
""",
    "holov": r"""
@inproceedings{holov,
  title = {Don't Just Chase ``Highlighted Tokens'' in {MLLMs}: Revisiting Visual Holistic Context Retention},
  author = {Zou, Xin and Lu, Di and Wang, Yizhou and Yan, Yibo and Lyu, Yuanhuiyi and Zheng, Xu and Zhang,
    Linfeng and Hu, Xuming},
  year = {2025},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2510.02912},
  archivePrefix = {arXiv},
}
""",
    "prunesid": r"""
@inproceedings{prunesid,
  title = {Prune Redundancy, Preserve Essence: Vision Token Compression in {VLMs} via Synergistic
    Importance-Diversity},
  author = {Fang, Zhengyao and Lyu, Pengyuan and Zhang, Chengquan and Lu, Guangming and Yu, Jun and Pei,
    Wenjie},
  year = {2026},
  booktitle = {International Conference on Learning Representations},
  eprint = {2603.09480},
  archivePrefix = {arXiv},
}
""",
    "hired": r"""
@inproceedings{hired,
  title = {{HiRED}: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language
    Models},
  author = {Arif, Kazi Hasan Ibn and Yoon, JinYi and Nikolopoulos, Dimitrios S. and Vandierendonck, Hans and
    John, Deepu and Ji, Bo},
  year = {2025},
  booktitle = {AAAI Conference on Artificial Intelligence},
  eprint = {2408.10945},
  archivePrefix = {arXiv},
}
""",
    "cdpruner": r"""
@inproceedings{cdpruner,
  title = {Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in {MLLMs}},
  author = {Zhang, Qizhe and Liu, Mengzhen and Li, Lichen and Lu, Ming and Zhang, Yuan and Pan, Junwen and She,
    Qi and Zhang, Shanghang},
  year = {2025},
  booktitle = {Advances in Neural Information Processing Systems},
  eprint = {2506.10967},
  archivePrefix = {arXiv},
}
""",
    "fastv": r"""
@inproceedings{fastv,
  title = {An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
    Vision-Language Models},
  author = {Chen, Liang and Zhao, Haozhe and Liu, Tianyu and Bai, Shuai and Lin, Junyang and Zhou, Chang and
    Chang, Baobao},
  year = {2024},
  booktitle = {European Conference on Computer Vision},
  eprint = {2403.06764},
  archivePrefix = {arXiv},
}
""",
    "pyramiddrop": r"""
@inproceedings{pyramiddrop,
  title = {{PyramidDrop}: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
    Reduction},
  author = {Xing, Long and Huang, Qidong and Dong, Xiaoyi and Lu, Jiajie and Zhang, Pan and Zang, Yuhang and
    Cao, Yuhang and He, Conghui and Wang, Jiaqi and Wu, Feng and Lin, Dahua},
  year = {2025},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  eprint = {2410.17247},
  archivePrefix = {arXiv},
}
""",
    "sparsevlm": r"""
@inproceedings{sparsevlm,
  title = {{SparseVLM}: Visual Token Sparsification for Efficient Vision-Language Model Inference},
  author = {Zhang, Yuan and Fan, Chun-Kai and Ma, Junpeng and Zheng, Wenzhao and Huang, Tao and Cheng, Kuan and
    Gudovskiy, Denis and Okuno, Tomoyuki and Nakata, Yohei and Keutzer, Kurt and Zhang, Shanghang},
  year = {2025},
  booktitle = {International Conference on Machine Learning},
  eprint = {2410.04417},
  archivePrefix = {arXiv},
}
""",
    "dart": r"""
@inproceedings{dart,
  title = {Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More},
  author = {Wen, Zichen and Gao, Yifeng and Wang, Shaobo and Zhang, Junyuan and Zhang, Qintong and Li, Weijia
    and He, Conghui and Zhang, Linfeng},
  year = {2025},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  eprint = {2502.11494},
  archivePrefix = {arXiv},
}
""",
    "fastervlm": r"""
@misc{fastervlm,
  title = {[{CLS}] Attention is All You Need for Training-Free Visual Token Pruning: Make {VLM} Inference
    Faster},
  author = {Zhang, Qizhe and Cheng, Aosong and Lu, Ming and Zhuo, Zhiyong and Wang, Minqi and Cao, Jiajun and
    Guo, Shaobo and She, Qi and Zhang, Shanghang},
  year = {2024},
  eprint = {2412.01818},
  archivePrefix = {arXiv},
}
""",
}
