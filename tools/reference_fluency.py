"""Entropy and consistency of texts, as ROME's evaluation has them, for reference_eval.py.

  entropy      of a text's words (NLTK's tokens, punctuation too), H_n = -sum f log2 f over the
               frequencies f of its n-grams: (2/3 H_2 + 4/3 H_3) / 2, in bits
  consistency  cosine of the TF-IDF vectors of all texts joined by blanks and of the reference texts
               joined so; words and their weights from the snippets (scikit-learn's defaults: small
               letters, words of two letters or more, idf = ln((1 + n) / (1 + df)) + 1)

NLTK splits sentences before words, by Punkt, so that a full stop becomes a token at a sentence's
end only. Its trained abbreviations are a download of their own; here it has none, which is the same
for texts without any.
"""

import math
from collections import Counter

import nltk
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer


def words(text):
    sentences = nltk.tokenize.PunktSentenceTokenizer().tokenize(text)
    split = nltk.tokenize.NLTKWordTokenizer().tokenize
    return [word for sentence in sentences for word in split(sentence)]


def entropy(text):
    tokens, weighted = words(text), []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(nltk.ngrams(tokens, n))
        total = sum(counts.values())
        weighted.append(weight * -sum(c / total * math.log2(c / total) for c in counts.values()))
    return sum(weighted) / 2


def consistency(texts, references, snippets):
    vectors = TfidfVectorizer().fit(snippets).transform([" ".join(texts), " ".join(references)])
    a, b = vectors.toarray()
    return (a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)).item()


def fluency(case):
    """The output of a case of form `fluency`: a record a group of texts."""
    records = []
    for index, group in enumerate(case["groups"]):
        texts, references = group["texts"], group["references"]
        entropies = [entropy(text) for text in texts]
        alike = consistency(texts, references, case["snippets"])
        metrics = {"fluency.entropy": {"after": entropies}}
        metrics["fluency.consistency"] = {"after": [alike]}
        tokens = [words(text) for text in texts]
        records.append(dict(id=str(index), metrics=metrics, words=tokens))
    return dict(form="fluency", nltk=nltk.__version__, sklearn=sklearn.__version__, records=records)
