"""Multiple choice, true/false and proofs are found in both languages, and questions with a value are left alone."""

import pytest

from megatron_k15.curation.question_kinds import question_kind

MULTIPLE_CHOICE = [
    ("Which of the following is prime?\n(A) 21 (B) 27 (C) 29 (D) 33", "C"),
    ("What is 3/4 as a decimal?\nA. 0.25\nB. 0.5\nC. 0.75\nD. 1.0", "C"),
    ("What is 3/4? A) 0.25 B) 0.5 C) 0.75", "0.75"),
    ("下列各数中是质数的是（ ）\nA. 9  B. 15  C. 17  D. 21", "C"),
    ("下列说法正确的是（　　）A．0是正数 B．0是负数 C．0是整数 D．0不是有理数", "C"),
    ("Select the correct option: the roots of x^2=4", "B"),
    ("以下哪个数最大", "D"),
    ("Which of the following is a prime? a) 4 b) 6 c) 7 d) 9", "c"),
    ("Select all that apply: I. x>0 II. x<0 III. x=0", "I and II"),
    ("What is 2+2? A. 3 B. 4 C. 5 D. 6", "4"),
    ("若a>b，则（　　）\nA. a+1>b+1\nB. a<b\nC. ac>bc", "a+1>b+1"),
    ("已知集合，则（Ａ）空集（Ｂ）全集（Ｃ）其他", "Ｃ"),
]
TRUE_FALSE = [
    ("True or false: every prime greater than 2 is odd.", "True"),
    ("Is the following statement true? The square root of 2 is rational.", "it is not"),
    ("Does 7 divide 84? Answer yes or no.", "it does"),
    ("Is 91 a prime number?", "No"),
    ("State whether the claim below is true or false. 1 > 0", "it holds"),
    ("判断正误：所有的偶数都是合数。", "错误"),
    ("命题“若a>b则a²>b²”是否正确？", "不成立"),
    ("0是自然数。（ 对 ）", "是的"),
    ("97是质数吗？", "是"),
]
PROOFS = [
    ("Prove that the square root of 2 is irrational.", "By contradiction."),
    ("Let n be odd. Show that n^2 is odd.", "(2k+1)^2"),
    ("Let G be a group. Then prove or disprove: G is abelian.", "disprove"),
    ("Give a rigorous proof of Fermat's little theorem.", "-"),
    ("求证：等腰三角形的两个底角相等。", "略"),
    ("证明：若n为整数，则n(n+1)是偶数。", "略"),
    ("Demonstrate the identity sin^2 x + cos^2 x = 1.", "1"),
    ("Let f be a polynomial. Show f is continuous on R.", "-"),
    ("Deduce that n must be even.", "-"),
]
EVALUABLE = [
    ("A triangle has sides 3, 4 and 5. What is its area?", "6"),
    ("Point A is at (0,0) and point B at (3,4). Find the distance from A to B.", "5"),
    ("Show that f(x)=x^2 is even, and find f(3).", "9"),
    ("求方程x^2-5x+6=0的两根之和。", "5"),
    ("The proof of age card costs 5 dollars; with tax of 10%, what is the total?", "5.5"),
    ("Let A be 3 and B be 4. Compute A + B.", "7"),
    ("Team A: 10 points; Team B: 12 points; Team C: 9 points. By how many does B win?", "2"),
    ("Let f(x)=x^2. (a) Find f(2). (b) Find f(3). (c) Find f(4).", "4, 9, 16"),
    ("How many such n are there? Find them all and prove your answer.", "3"),
    ("求满足条件的x的个数，并证明你的结论。", "3"),
    ("Show your work. What is 12*12?", "144"),
    ("How many of the following numbers are even: 2, 3, 4?", "2"),
    ("In how many ways can a committee choose 2 of 5 people?", "10"),
    ("一张身份证明书的费用是5元，两张多少元？", "10"),
    ("Vitamin C costs 3 dollars. How much do 4 cost?", "12"),
    ("What does it mean to improve a score from 3 to 7? Give the difference.", "4"),
]


@pytest.mark.parametrize(("text", "answer"), MULTIPLE_CHOICE)
def test_multiple_choice(text: str, answer: str) -> None:
    kind = question_kind(text, answer)
    assert kind is not None
    assert kind[0] == "multiple_choice"


@pytest.mark.parametrize(("text", "answer"), TRUE_FALSE)
def test_true_false(text: str, answer: str) -> None:
    kind = question_kind(text, answer)
    assert kind is not None
    assert kind[0] == "true_false"


@pytest.mark.parametrize(("text", "answer"), PROOFS)
def test_proofs(text: str, answer: str) -> None:
    kind = question_kind(text, answer)
    assert kind is not None
    assert kind[0] == "proof"


@pytest.mark.parametrize(("text", "answer"), EVALUABLE)
def test_what_can_be_evaluated_stays(text: str, answer: str) -> None:
    assert question_kind(text, answer) is None
