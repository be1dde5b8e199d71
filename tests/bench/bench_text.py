#!/usr/bin/env python3
"""Text for bench_tokenizer: python3 bench_text.py DIR writes DIR/<name>.txt, the same every time.

Sentences of common words by their frequency, of rarer words, of numbers and names; Chinese of common
words and characters; what the tree itself holds in prose and in C; and texts that are hard on purpose.
Documents of about 4,000 characters are separated by NUL, because the package is slower on long ones.
"""
import glob
import pathlib
import random
import sys

COMMON = """the of and to in a is that it was for on are as with his they at be this from I have or by one
had not but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than first
been its who now people my made over did down only way find use may water long little very after words
called just where most know get through back much before go good new write our used me man too any day same
right look think also around another came come work three word must because does part even place well such
here take why things help put years different away again off went old number great tell men say small every
found still between name should home big give air line set own under read last never us left end along while
might next sound below saw something thought both few those always looked show large often together asked
house don't world going want school important until form food keep children feet land side without boy once
animals life enough took sometimes four head above kind began almost live page got earth need far hand high
year mother light parts country father let night following picture being study second eyes soon times story
boys since white days ever paper hard near sentence better best across during today others however sure means
knew it's try told young miles sun ways thing whole hear example heard several change answer room sea against
top turned learn point city play toward five using himself usually""".split()
RARE = """government parliament experiment laboratory hypothesis temperature measurement civilization railway
engineer mathematics philosopher magnificent reluctantly extraordinary circumstances neighbourhood manuscript
architecture correspondence determination unquestionably gravitational photosynthesis chlorophyll algorithm
compiler tokenizer throughput latency scheduling concurrency quarterly infrastructure sovereignty legislation
harbour lighthouse schooner apothecary whispered bewildered scarlet melancholy orchard thunderstorm cathedral
vineyard blacksmith parchment threshold candlelight unfathomable archipelago labyrinthine idiosyncratic
electromagnetic biodiversity microprocessor thermodynamics quintessential kaleidoscope Mediterranean Arctic
Copernicus Shakespeare Constantinople Mozambique Kilimanjaro Reykjavik Tchaikovsky Wollstonecraft""".split()
CHINESE = """我们 他们 什么 这个 那个 时间 问题 工作 生活 世界 中国 国家 社会 经济 发展 历史 文化 科学 技术 研究
大学 学生 老师 朋友 孩子 父亲 母亲 城市 北京 上海 天气 今天 明天 昨天 早上 晚上 非常 已经 可以 因为 所以 但是
如果 没有 知道 觉得 认为 开始 结束 需要 应该 可能 重要 不同 所有 第一 方面 情况 关系 系统 程序 计算 数据 模型
语言 文字 语音 图像 网络 信息 服务 用户 企业 市场 产品 价格 增长 环境 能源 教育 医疗 健康 运动 音乐 电影 书籍
的 了 在 是 和 有 也 都 就 不 人 这 上 大 来 到 说 要 去 你 会 着 看 好 自己 对 能 下 过 得 里 后 作 于 与 及 等
温泉 腾冲 长江 黄河 春秋 唐朝 哲学 逻辑 参数 训练 推理 缓存 调度 内存 处理器 人工智能 机器学习""".split()


def english(rng, size):
    weights = [1 / (rank + 4) for rank in range(len(COMMON))]
    out, length = [], 0
    while length < size:
        words = rng.choices(COMMON, weights, k=rng.randint(6, 24))
        for at in range(len(words)):
            draw = rng.random()
            if draw < 0.06:
                words[at] = rng.choice(RARE)
            elif draw < 0.07:
                words[at] = str(rng.randint(1, 3000))
            elif draw < 0.13 and at + 1 < len(words):
                words[at] += ","
        text = " ".join(words)
        text = text[0].upper() + text[1:] + rng.choice([".", ".", ".", ".", "?", "!", ";"])
        text += rng.choice([" "] * 5 + ["\n\n"])
        out.append(text)
        length += len(text)
    return "".join(out)


def chinese(rng, size):
    out, length = [], 0
    while length < size:
        text = "".join(rng.choices(CHINESE, k=rng.randint(6, 20)))
        if rng.random() < 0.15:
            text += str(rng.randint(1, 2030)) + "年"
        text += rng.choice(["，", "，", "。", "。", "、", "；", "？", "。\n\n"])
        out.append(text)
        length += 3 * len(text)
    return "".join(out)


def files(root, *patterns):
    paths = sorted(path for pattern in patterns for path in glob.glob(str(root / pattern)))
    return "\n".join(pathlib.Path(path).read_text() for path in paths)


def repeated(text, size):
    return (text * (1 + size // max(1, len(text))))[:size]


def documents(text, size=4000):
    out = []
    while len(text) > size:
        cut = text.rfind(" ", 0, size) if " " in text[:size] else text.rfind("。", 0, size)
        cut = cut if cut > 0 else size
        out.append(text[:cut])
        text = text[cut:]
    return "\0".join(out + [text])


def main():
    target, root = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).resolve().parent.parent.parent
    rng = random.Random(20260731)
    size = 2_000_000
    letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=size // 2))
    texts = {  # none holds the name of a control token, which the package would match
        "english": documents(english(rng, size)),
        "chinese": documents(chinese(rng, size)),
        "prose of the project": documents(repeated(files(root, "*.md", "*/*.md", "*/*/*.md", "LICENSE"), size)),
        "c source": documents(repeated(files(root, "kvcache/*.[ch]", "backends/*/*.[ch]"), size)),
        "random letters": letters,
        "one letter": "a" * (size // 2),
    }
    for name, text in texts.items():
        (target / (name.replace(" ", "_") + ".txt")).write_text(text)


if __name__ == "__main__":
    main()
